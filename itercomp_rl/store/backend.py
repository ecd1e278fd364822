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
from itercomp_rl.store.address import CREDENTIALS_WAY_OUT, is_url, secret_part
from itercomp_rl.store.layout import attempt_name
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
    errno.EPERM: f"not permitted: let this user read, write and hard-link there {_ELSEWHERE}",
    errno.EOPNOTSUPP: "this file system lacks hard links, which create-only writes need: point store.url elsewhere",
    errno.EROFS: f"the file system is read-only: mount it for writing {_ELSEWHERE}",
    errno.EEXIST: "a file is there: point store.url at a directory",
    errno.ENOTDIR: "a part of that path is a file: point store.url at a directory",
}


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
                    file.flush()
                    os.fsync(file.fileno())

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
            try:
                if self.root is None or not self.durable:
                    obstore.put(self.objects, key, data, mode="create")
                else:
                    self._create_durably(self.root, key, data, f"staging/{attempt_name(time_s)}")
            except AlreadyExistsError:
                return False
        return True

    def _create_durably(self, root: Path, key: str, data: bytes, staged: str) -> None:
        obstore.put(self.objects, staged, data)
        flush(root / staged)
        try:
            obstore.rename(self.objects, staged, key, overwrite=False)  # a hard link: it fails where the key exists
        except BaseError:
            obstore.delete(self.objects, staged)
            raise
        self._flush_directories_above(root, root / key)

    def flush(self, folder: str) -> None:
        """Make the names of objects new in a folder survive a power loss; object stores have done so by themselves."""
        if self.root is None or not self.durable:
            return
        with explaining(self.url, f"flush {folder}"):
            for directory, _, _ in os.walk(self.root / folder):
                flush(Path(directory))
            self._flush_directories_above(self.root, self.root / folder)

    @staticmethod
    def _flush_directories_above(root: Path, path: Path) -> None:
        for directory in path.parents:
            flush(directory)
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
        """Refuse a store where two writers could both create one key. Raises: StoreError."""
        key = f"staging/{attempt_name(time_s)}"
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
