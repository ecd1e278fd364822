"""Immutable records in a Zarr store: arrays first, a create-only marker last; without its marker nothing is there."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from itercomp_rl.errors import CorruptRecordError, MissingRecordError, StoreError
from itercomp_rl.store import chunks
from itercomp_rl.store.backend import Backend, connect
from itercomp_rl.store.chunks import Shard
from itercomp_rl.store.layout import (
    ATTEMPT_LIFETIME_S,
    HEADER,
    HEADER_KEY,
    IGNORE_KEY,
    JSON,
    PACKED_SCHEMA,
    SCHEMA,
    WAY_OUT,
    ArrayInfo,
    Commit,
    Place,
    array_metadata,
    attempt_name,
    attempt_time,
    checked_name,
    decode_commit,
    encode_commit,
    encode_json,
    group_metadata,
    is_name,
    own_place,
    record_place,
)
from itercomp_rl.store.packs import Packs
from itercomp_rl.store.software import software


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one record holds: its attrs, and those of its arrays that were asked for, checked."""

    attrs: dict[str, Any]  # JSON: who put it knows its types
    arrays: dict[str, np.ndarray]


def open_store(url: str, *, create: bool = False, durable: bool = True) -> "Store":
    """The store at `file:///dir`, a path, `s3://`, `gs://`, `az://` or `memory://`; many processes may open one.

    Args: create: make one where there is none (and open the one there is), and try create-only writes there, each time:
    a store may have been copied from elsewhere. durable: a local disk is flushed before a
    record is published, so that a power loss takes nothing published.
    Raises: StoreError if there is none, it has another schema version, the URL or its permissions are wrong, or, when
    creating, two create-only writes of one key both succeed there.
    """
    backend = connect(url, create=create, durable=durable)
    header = backend.read(HEADER_KEY)
    if create:
        now = time.time()
        backend.check_create_only(now)
        if header is None:
            backend.create(HEADER_KEY, encode_json(HEADER), now)
            if backend.root is not None:
                backend.create(IGNORE_KEY, b"*\n", now)
            header = backend.read(HEADER_KEY)
    if header is None:
        raise StoreError(f"no store at {backend.url}: check store.url, or create one there (create=True)")
    try:
        schema = json.loads(header)["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"store {backend.url}: {HEADER_KEY} is not a store's ({error}): point store.url elsewhere"
        ) from error
    if schema not in (SCHEMA, PACKED_SCHEMA):
        raise StoreError(
            f"store {backend.url} has schema version {schema}, this software reads and writes {SCHEMA} and "
            f"{PACKED_SCHEMA}: "
            "use the software that made it, or point store.url at a new place"
        )
    return Store(backend=backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """One open store; its methods block, may be called from any thread, and raise StoreError when it fails them."""

    backend: Backend
    clock: Callable[[], float] = time.time  # unix seconds
    _packs: Packs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_packs", Packs(self.backend))

    @property
    def url(self) -> str:
        """The absolute URL another process opens this store by."""
        return self.backend.url

    def put(self, kind: str, id: str, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, JSON]) -> Commit:
        """Publish a record, all of it or nothing; the one already published under this id, if there is one.

        Args: arrays: bool, integers or floats of any shape; none makes a record of attrs alone.
        Raises: StoreError on a full disk, no permission, attrs that are not JSON: then nothing is visible.
        """
        return self.publish(record_place(kind, id), arrays, attrs)[0]

    def publish(self, place: Place, arrays: Mapping[str, np.ndarray], attrs: Mapping[str, JSON]) -> tuple[Commit, bool]:
        """As `put`, at any place; the commit, and whether this call made it. The first to create the marker wins."""
        began = self.clock()
        if published := self.find(place):
            return published, False
        encode_json(attrs)  # attrs that are not JSON fail before anything is written
        folder, infos = self._folder(place, began) if arrays else None, {}
        if folder:
            with self._whole_or_nothing(folder):
                for name, array in arrays.items():
                    infos[name] = self._write_array(f"{folder}/{checked_name(name)}", array)
        return self._complete(place, folder, infos, attrs, began)

    def begin(self, place: Place) -> str:
        """A new folder for a record that several processes write together, by `write_part`, and one by `complete`."""
        return self._folder(place, self.clock())

    @staticmethod
    def _folder(place: Place, began: float) -> str:
        return place.data + attempt_name(began)

    def write_part(self, folder: str, name: str, array: np.ndarray) -> ArrayInfo:
        """One array of a record that is not complete yet. Raises: StoreError; the array is then not there."""
        path = f"{folder}/{checked_name(name)}"
        with self._whole_or_nothing(path):
            info = self._write_array(path, array)
            self.backend.flush(path)
        return info

    def abandon(self, folder: str) -> None:
        """Delete what `write_part` wrote of a record that cannot be completed."""
        self.backend.delete_folder(folder)

    def complete(
        self, place: Place, folder: str | None, arrays: Mapping[str, ArrayInfo], attrs: Mapping[str, JSON]
    ) -> tuple[Commit, bool]:
        """Make arrays that lie in a folder of `begin` visible as the record of a place; returns as `publish`."""
        return self._complete(place, folder, arrays, attrs, attempt_time(folder or "") or self.clock())

    def _complete(
        self,
        place: Place,
        folder: str | None,
        infos: Mapping[str, ArrayInfo],
        attrs: Mapping[str, JSON],
        began: float,
    ) -> tuple[Commit, bool]:
        if folder:
            with self._whole_or_nothing(folder):
                self.backend.write_new(f"{folder}/zarr.json", [encode_json(group_metadata(attrs))])
                self.backend.flush(folder)
        now = self.clock()
        commit = Commit(
            marker=place.marker,
            data=folder,
            arrays=dict(infos),
            attrs=dict(attrs),
            writer=f"{socket.gethostname()}:{os.getpid()}",
            time_s=now,
            software=dict(software()),
        )
        return self._show(place, commit, began, now)

    def _show(self, place: Place, commit: Commit, began: float, now: float) -> tuple[Commit, bool]:
        """Create a marker; the commit that is then there, and whether it is this one."""
        if now - began > ATTEMPT_LIFETIME_S:
            raise StoreError(
                f"writing {place.marker} took {now - began:.0f} s; past {ATTEMPT_LIFETIME_S:.0f} s the collector may "
                "delete unpublished data: repeat it, with less in one record"
            )
        data = encode_commit(commit)
        offered = decode_commit(place.marker, data)
        winner = offered if self.backend.create(place.marker, data, now) else self.find(place)
        assert winner is not None, f"{place.marker} exists and does not"
        return winner, winner == offered  # equal also where obstore repeated a create that had succeeded unheard

    def copy(self, source: "Store", place: Place) -> bool:
        """Copy a record of another store with its writer and software; whether it was there, and new here.

        It is as young as the copy, for what is old may be packed. Every byte is checked on the way.
        Raises: CorruptRecordError, StoreError; then nothing is visible here.
        """
        began = self.clock()
        commit = source.find(place)
        if commit is None or self.find(place):
            return False
        folder, infos = self._folder(place, began) if commit.data else None, {}
        if folder:
            with self._whole_or_nothing(folder):
                infos = {
                    name: self._write_array(f"{folder}/{name}", source.read_array(commit, name))
                    for name in commit.arrays
                }
                self.backend.write_new(f"{folder}/zarr.json", [encode_json(group_metadata(commit.attrs))])
                self.backend.flush(folder)
        now = self.clock()
        return self._show(place, replace(commit, data=folder, arrays=infos, time_s=now), began, now)[1]

    @contextmanager
    def _whole_or_nothing(self, folder: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            self.backend.delete_folder(folder)  # nobody reads it yet, and a full disk needs the space
            raise

    def _write_array(self, path: str, array: np.ndarray) -> ArrayInfo:
        values = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        return chunks.write_array(self.backend, path, values, array_metadata(values.shape, values.dtype))

    def find(self, place: Place) -> Commit | None:
        """The commit at a place, None if nothing is published there. Raises: CorruptRecordError."""
        data = self._marker(place.marker)
        return None if data is None else decode_commit(place.marker, data)

    def _marker(self, marker: str) -> bytes | None:
        top, kind, name = marker.split("/")
        if top != "commits":
            return self.backend.read(marker)
        id_ = name.removesuffix(".json")
        data = self._packs.known(kind, id_)
        if data is None:
            data = self.backend.read(marker)
        if data is None:  # asked last, as a compactor may have moved it there meanwhile
            data = self._packs.find(kind, id_)
        return data

    def find_all(self, places: Iterable[Place]) -> list[Commit]:
        """The commits at these places, in their order, without those where nothing is published."""
        with ThreadPoolExecutor(max_workers=16) as readers:  # an object store answers in tens of milliseconds
            return [commit for commit in readers.map(self.find, places) if commit]

    def has(self, kind: str, id: str) -> bool:
        """Whether the record is published."""
        return self._marker(record_place(kind, id).marker) is not None

    def ids(self, kind: str, prefix: str = "", *, after: str = "") -> list[str]:
        """Sorted ids of the published records of a kind: those that begin with `prefix`, and sort after `after`.

        A foreign file between the markers is no record, unless it is named like one: then reading it fails, by name.

        A reader of ids that rise keeps the last one it saw as its cursor: an object store then lists only what is new.
        """
        start = checked_name(after) if after else ""
        # As keys, "a.json" sorts after "a-b.json" though "a" < "a-b": ask from before the suffix, compare ids here.
        names = self.backend.names(f"commits/{checked_name(kind)}", ".json", after=start)
        ids = {name.removesuffix(".json") for name in names} | self._packs.ids(kind)
        return sorted(id_ for id_ in ids if id_.startswith(prefix) and id_ > after and is_name(id_))

    def markers(self) -> list[str]:
        """Keys of all records' markers, by themselves or packed. Raises: CorruptRecordError."""
        found = {key for key in self.backend.sizes("commits") if own_place(key)}
        for kind in self._packs.kinds():
            found |= {record_place(kind, id_).marker for id_ in self._packs.ids(kind)}
        return sorted(found)

    def commits(self, kind: str, prefix: str = "") -> list[Commit]:
        """Commits of `ids(kind, prefix)`, in their order."""
        return self.find_all(record_place(kind, id) for id in self.ids(kind, prefix))

    def get(self, kind: str, id: str, arrays: list[str] | None = None) -> Record:
        """A record with the named arrays (None: all, []: attrs alone), every byte checked against its marker.

        Raises: MissingRecordError; CorruptRecordError if a byte is wrong or missing.
        """
        return self.read(record_place(kind, id), arrays)

    def read(self, place: Place, arrays: list[str] | None = None) -> Record:
        """As `get`, at any place."""
        commit = self._existing(place)
        names = list(commit.arrays) if arrays is None else arrays
        return Record(attrs=commit.attrs, arrays={name: self.read_array(commit, name) for name in names})

    def get_rows(self, kind: str, id: str, array: str, rows: slice) -> np.ndarray:
        """Some rows (first axis) of one array. Of images only these are read, and checked by their crc32c.

        Raises: MissingRecordError; CorruptRecordError if a byte is wrong or missing, of images if one of these is.
        """
        commit = self._existing(record_place(kind, id))
        if not chunks.holds_images(info := self._info(commit, array)):
            return self.read_array(commit, array)[rows]
        shard = self.open_shard(commit, array)
        return self.read_images(commit, shard, range(*rows.indices(info.shape[0])))

    def _existing(self, place: Place) -> Commit:
        commit = self.find(place)
        if commit is None:
            raise MissingRecordError(f"store {self.url} holds no {place.marker}: nothing was published under that name")
        return commit

    def read_array(self, commit: Commit, name: str) -> np.ndarray:
        """One whole array of a commit. Raises: MissingRecordError, CorruptRecordError."""
        info = self._info(commit, name)
        with self._naming(commit):
            return chunks.read_array(self.backend, f"{commit.data}/{name}", info)

    def open_shard(self, commit: Commit, name: str) -> Shard:
        """Where each image of an array lies, for `read_images`. Raises: MissingRecordError, CorruptRecordError."""
        info = self._info(commit, name)
        if not chunks.holds_images(info):
            raise MissingRecordError(f"{commit.marker} holds no images in its array {name!r} {list(info.shape)}")
        with self._naming(commit):
            return chunks.open_shard(self.backend, f"{commit.data}/{name}", info)

    def read_images(self, commit: Commit, shard: Shard, rows: Sequence[int]) -> np.ndarray:
        """Images [len(rows), H, W, 3] at some rows of an opened shard, new memory. Raises: CorruptRecordError."""
        with self._naming(commit):
            return chunks.read_images(self.backend, shard, rows)

    @staticmethod
    def _info(commit: Commit, name: str) -> ArrayInfo:
        if name not in commit.arrays:
            raise MissingRecordError(f"{commit.marker} holds no array {name!r}, but {sorted(commit.arrays)}")
        return commit.arrays[name]

    @staticmethod
    @contextmanager
    def _naming(commit: Commit) -> Iterator[None]:
        try:
            yield
        except CorruptRecordError as error:
            raise CorruptRecordError(f"{commit.marker}: {error}: {WAY_OUT}") from error

    def check_objects(self, path: str, info: ArrayInfo) -> None:
        """Raises: CorruptRecordError if the objects of an array are not as many and as long as they were written."""
        sizes = self.backend.sizes(path)
        if len(sizes) != info.num_objects or sum(sizes.values()) != info.num_bytes:
            raise CorruptRecordError(
                f"{path} has {len(sizes)} objects of {sum(sizes.values())} bytes in all where its marker says "
                f"{info.num_objects} of {info.num_bytes}"
            )
