"""Keys and bytes: one small layer over obstore, with create-only writes that last and errors that say what to do."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from itercomp_rl.errors import InvalidNameError, StoreError
from itercomp_rl.files.flush import flush
from itercomp_rl.files.new_name import NoNewNameError, take_new_name
from itercomp_rl.store.address import CREDENTIALS_WAY_OUT, is_url, secret_part
from itercomp_rl.store.layout import MARKED, attempt_name, is_staged, staged_name
from itercomp_rl.store.traffic import TRAFFIC

if TYPE_CHECKING:
    from obstore._store import RetryConfig  # a type alone: the package does not export it

# An object store that throttles or is away for a minute is waited for; after that the caller hears of it.
_RETRIES: "RetryConfig" = {
    "max_retries": 30,
    "retry_timeout": timedelta(seconds=180),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2},
}
Buffer: TypeAlias = "bytes | memoryview"

_ELSEWHERE = "or point store.url elsewhere"
_WAYS_OUT = {
    errno.ENOSPC: f"the disk is full: free space there {_ELSEWHERE}; nothing was published, call again",
    errno.EDQUOT: f"the quota is used up: free space there {_ELSEWHERE}; nothing was published, call again",
    errno.EACCES: f"no permission: let this user read and write there {_ELSEWHERE}",
    errno.EPERM: f"not permitted: let this user read and write there {_ELSEWHERE}",
    errno.EROFS: f"the file system is read-only: mount it for writing {_ELSEWHERE}",
    errno.EEXIST: "a file is there: point store.url at a directory",
    errno.ENOTDIR: "a part of that path is a file: point store.url at a directory",
}
_NO_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems answer that cannot flush a folder


@contextmanager
def explaining(url: str, doing: str) -> Iterator[None]:
    """Turn what obstore or the operating system raises into a StoreError that says what failed, why, the way out."""
    try:
        yield
    except (BaseError, OSError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        number = re.search(r"os error (\d+)", reason)
        code = int(number[1]) if number else error.errno if isinstance(error, OSError) else None
        way_out = _WAYS_OUT.get(code or 0, f"check store.url, its credentials and permissions, {_ELSEWHERE}")
        raise StoreError(f"store {url}: could not {doing} ({reason}): {way_out}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The objects of one store by key; `root` is the directory of a local one, None elsewhere.

    Every method raises StoreError when the store cannot do what it was asked.
    """

    url: str
    objects: ObjectStore = field(repr=False)
    root: Path | None
    durable: bool

    def read(self, key: str) -> bytes | None:
        """Bytes of one object, None if there is none."""
        with explaining(self.url, f"read {key}"), suppress(FileNotFoundError):
            return bytes(obstore.get(self.objects, key).bytes())
        return None

    def write(self, key: str, data: bytes) -> None:
        """Put one object, atomically, over any that is there."""
        with explaining(self.url, f"write {key}"):
            obstore.put(self.objects, key, data)

    def write_new(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put one object where there is none and where nobody looks yet, so not atomically; flushed where durable."""
        size = sum(memoryview(part).nbytes for part in parts)
        with explaining(self.url, f"write {key}"), TRAFFIC.moving("write", size):
            if self.root is None:
                obstore.put(self.objects, key, b"".join(parts))
                return
            path = self._path(self.root, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for part in parts:
                    file.write(part)
            if self.durable:
                self._flush(path)

    def read_into(self, key: str, buffers: Sequence[memoryview]) -> int | None:
        """Fill the buffers with one object, if it has just their size; its size in bytes, None if there is none."""
        expected = sum(buffer.nbytes for buffer in buffers)
        with explaining(self.url, f"read {key}"), suppress(FileNotFoundError), TRAFFIC.moving("read", expected):
            if self.root is None:
                data = memoryview(obstore.get(self.objects, key).bytes())
                if len(data) == expected:
                    _deal(data, buffers)
                return len(data)
            with self._path(self.root, key).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size == expected:
                    for buffer in buffers:
                        _read_all(file, buffer)
                return size
        return None

    def read_ranges(self, key: str, size: int, buffers: Sequence[tuple[int, memoryview]]) -> int | None:
        """Fill each buffer with the bytes of one object from an offset on, if the object is `size` bytes long.

        Returns: the size of the object in bytes, None if there is none.
        """
        wanted = sum(buffer.nbytes for _, buffer in buffers)
        with explaining(self.url, f"read {key}"), suppress(FileNotFoundError), TRAFFIC.moving("read", wanted):
            if self.root is None:
                return self._fetch_ranges(key, size, buffers)
            with self._path(self.root, key).open("rb", buffering=0) as file:
                found = os.fstat(file.fileno()).st_size
                if found == size:
                    for begin, buffer in buffers:
                        file.seek(begin)
                        _read_all(file, buffer)
                return found
        return None

    def _fetch_ranges(self, key: str, size: int, buffers: Sequence[tuple[int, memoryview]]) -> int:
        begins, ends = zip(*((begin, begin + buffer.nbytes) for begin, buffer in buffers), strict=True)
        try:
            parts = obstore.get_ranges(self.objects, key, starts=begins, ends=ends)
            is_whole = all(len(part) == buffer.nbytes for part, (_, buffer) in zip(parts, buffers, strict=True))
        except (BaseError, ValueError):
            if (found := obstore.head(self.objects, key)["size"]) != size:
                return found  # a range beyond the end is an error in some stores and a shorter answer in others
            raise
        if not is_whole:
            return obstore.head(self.objects, key)["size"]
        for part, (_, buffer) in zip(parts, buffers, strict=True):
            buffer[:] = memoryview(part).cast("B")
        return size

    @staticmethod
    def _path(root: Path, key: str) -> Path:
        if any(step in ("", ".", "..") for step in key.split("/")):
            raise InvalidNameError(f"{key!r} is not a key: it would lie elsewhere than it says")
        return root / key

    def create(self, key: str, data: bytes, time_s: float) -> bool:
        """Put one object where there is none, all or nothing; False if there is one already.

        On a durable disk the bytes are flushed before the key appears, and its directories before this returns.
        """
        with explaining(self.url, f"create {key}"):
            if self.root is not None:
                return self._create_on_disk(self.root, key, data, time_s)
            try:
                obstore.put(self.objects, key, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def _create_on_disk(self, root: Path, key: str, data: bytes, time_s: float) -> bool:
        path = self._path(root, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the key: some file systems (BeeGFS) link within one folder only.
        staged = path.with_name(staged_name(time_s))
        try:
            with staged.open("xb") as file:
                file.write(data)
            if self.durable:
                self._flush(staged)
            if not self._take_new_name(staged, path):
                return False
        finally:
            staged.unlink(missing_ok=True)
        if self.durable:
            self._flush_directories_above(root, path)
        return True

    def _take_new_name(self, staged: Path, path: Path) -> bool:
        try:
            take_new_name(staged, path)
        except FileExistsError:
            return False
        except NoNewNameError as error:
            raise StoreError(
                f"store {self.url}: this file system can neither hard-link a file to another name in its folder nor "
                f"rename it without replacing another one ({error}), and create-only writes need one of these, with "
                "store.durable=false too: point store.url at another file system or an object store"
            ) from error
        return True

    def _flush(self, path: Path) -> None:
        try:
            flush(path)
        except OSError as error:
            if error.errno not in _NO_FLUSH:
                raise
            raise StoreError(
                f"store {self.url}: this file system cannot flush {path} to its disk ({error}): set "
                f"store.durable=false, which lets a power loss take the last records, {_ELSEWHERE}"
            ) from error

    def flush(self, folder: str) -> None:
        """Make the names of objects new in a folder survive a power loss; object stores have done so by themselves."""
        if self.root is None or not self.durable:
            return
        with explaining(self.url, f"flush {folder}"):
            for directory, _, _ in os.walk(self.root / folder):
                self._flush(Path(directory))
            self._flush_directories_above(self.root, self.root / folder)

    def _flush_directories_above(self, root: Path, path: Path) -> None:
        for directory in path.parents:
            self._flush(directory)
            if directory == root:
                return

    def sizes(self, prefix: str, *, after: str | None = None) -> dict[str, int]:
        """Keys below a prefix (whole steps of a key) and after a key, sorted, and their sizes in bytes."""
        with explaining(self.url, f"list {prefix}"):
            batches = obstore.list(self.objects, prefix=prefix, offset=after, chunk_size=1000)
            return dict(sorted((meta["path"], meta["size"]) for batch in batches for meta in batch))

    def tops(self) -> list[str]:
        """Names of the objects and folders at the top of the store, sorted; nothing below them is listed."""
        with explaining(self.url, "list its top"):
            found = obstore.list_with_delimiter(self.objects)
            return sorted([*found["common_prefixes"], *(meta["path"] for meta in found["objects"])])

    def names(self, folder: str, suffix: str, *, after: str = "") -> list[str]:
        """Names of the objects right in a folder that end in a suffix, sorted; those after a name, where one is given.

        A disk is asked for names alone, which is ten times quicker than asking for sizes too.
        """
        if self.root is None:
            start = f"{folder}/{after}" if after else None
            keys = [key.removeprefix(f"{folder}/") for key in self.sizes(folder, after=start)]
        else:
            with explaining(self.url, f"list {folder}"):
                try:
                    keys = os.listdir(self._path(self.root, folder))  # noqa: PTH208  # a Path each costs more than all
                except FileNotFoundError:
                    keys = []
        return sorted(name for name in keys if name.endswith(suffix) and name > after)

    def staged(self) -> list[str]:
        """Keys under which a killed process may have left the bytes of a key that it was about to create, sorted."""
        if self.root is None:
            return sorted(self.sizes("staging"))
        with explaining(self.url, "list its staged files"):
            found = [name for name in os.listdir(self.root) if is_staged(name)]  # noqa: PTH208  # as in `names`
            for top in MARKED:
                for directory, _, names in os.walk(self.root / top):
                    folder = Path(directory).relative_to(self.root).as_posix()
                    found += [key for name in names if is_staged(key := f"{folder}/{name}")]
        return sorted(found)

    def delete(self, key: str) -> None:
        """Delete one object; fine if there is none."""
        with explaining(self.url, f"delete {key}"), suppress(FileNotFoundError):
            obstore.delete(self.objects, key)

    def delete_folder(self, folder: str) -> None:
        """Delete everything below a folder; fine if there is nothing."""
        with explaining(self.url, f"delete {folder}"):
            if self.root is None:
                obstore.delete(self.objects, list(self.sizes(folder)))
                return
            while (self.root / folder).exists():
                with suppress(FileNotFoundError):  # another collector is deleting it too
                    shutil.rmtree(self.root / folder)

    def check_create_only(self, time_s: float) -> None:
        """Refuse a store where create-only writes fail, or where two writers could both create one key.

        On a disk this is tried in a folder of markers, as the file system may allow there what it does not elsewhere.
        Raises: StoreError.
        """
        key = f"staging/{attempt_name(time_s)}" if self.root is None else f"commits/{staged_name(time_s)}"
        self.create(key, b"first", time_s)
        is_refused = not self.create(key, b"second", time_s)
        self.delete(key)
        if not is_refused:
            raise StoreError(
                f"store {self.url}: a create-only write went over an object that was there, so two writers of one "
                "record could both win; use a local disk, or an object store that honours If-None-Match on PUT"
            )


def connect(url: str, *, create: bool, durable: bool) -> Backend:
    """What a URL names: `file:///dir` or a path, `s3://`, `gs://`, `az://`, or `memory://`, a fresh one each time.

    Credentials and endpoints come from the environment, as obstore reads them. Raises: StoreError, also for a URL with
    a password or a query in it, as the URL is written to configs and logs.
    """
    if part := secret_part(url):
        raise StoreError(f"store.url holds {part}, which would be written to configs and logs: {CREDENTIALS_WAY_OUT}")
    if url.startswith(("s3://", "gs://", "az://")):
        with explaining(url, "connect"):
            return Backend(url=url, objects=from_url(url, retry_config=_RETRIES), root=None, durable=durable)
    if url == "memory://":
        return Backend(url=url, objects=MemoryStore(), root=None, durable=durable)
    if is_url(url) and not url.startswith("file:///"):
        raise StoreError(f"store.url is {url!r}: must be file:///dir, a path, s3://, gs://, az:// or memory://")
    root = Path(unquote(urlsplit(url).path) if url.startswith("file:///") else url).expanduser().absolute()
    with explaining(root.as_uri(), "open it"):
        if not create and not root.exists():
            raise StoreError(f"no store at {root.as_uri()}: check store.url, or create one there (create=True)")
        return Backend(url=root.as_uri(), objects=LocalStore(root, mkdir=create), root=root, durable=durable)


def _deal(data: memoryview, buffers: Sequence[memoryview]) -> None:
    begin = 0
    for buffer in buffers:
        buffer[:] = data[begin : begin + buffer.nbytes]
        begin += buffer.nbytes


def _read_all(file: FileIO, buffer: memoryview) -> None:
    done = 0
    while done < buffer.nbytes:  # one call reads 2 GiB at most
        read = file.readinto(buffer[done:])
        if not read:
            raise OSError(errno.EIO, "the file shrank while it was read")
        done += read
