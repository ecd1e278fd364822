"""Old markers gathered: a pack is one object with the markers of many records, so that few are listed and read.

    compactor   pack of markers that are old enough, create-only -> delete these markers
    reader      the packs it knows -> the marker -> the packs that are new
A marker is thus always in one place or the other, whenever a compactor is killed; in both it is the same.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store.backend import Backend
from itercomp_rl.store.layout import (
    ATTEMPT_LIFETIME_S,
    HEADER,
    HEADER_KEY,
    PACKED_HEADER,
    attempt_name,
    checked_name,
    decode_commit,
    encode_json,
    kind_of_pack,
    own_place,
    record_place,
    seal,
    unseal,
)

PACKED_AFTER_S = 2 * ATTEMPT_LIFETIME_S  # a writer that looked before the record was there has given up by then
_MARKERS, _BYTES = 1000, 8 * 2**20  # at most so many in a pack, and so large where markers are
_KEPT_BYTES = 64 * 2**20  # of markers that stay in memory


class Packs:
    """The packs of one store, which never change: what is in them is looked up once. For any thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._ids: dict[str, dict[str, frozenset[str]]] = {}  # kind -> key of a pack -> the records in it
        self._recent: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()  # of `_recent`; nothing is read from the store under it

    def keys(self, kind: str) -> list[str]:
        """Keys of a kind's packs, oldest first."""
        names = self._backend.names(f"packs/{checked_name(kind)}", ".json")
        return [key for name in names if kind_of_pack(key := f"packs/{kind}/{name}")]

    def kinds(self) -> list[str]:
        """Kinds of which there are packs."""
        return sorted({kind for key in self._backend.sizes("packs") if (kind := kind_of_pack(key))})

    def ids(self, kind: str) -> set[str]:
        """Ids of all packed records of a kind. Raises: CorruptRecordError if a pack cannot say which it holds."""
        found, error = self._look(kind)
        if error:
            raise error
        return {id_ for ids in found.values() for id_ in ids}

    def known(self, kind: str, id_: str) -> bytes | None:
        """The marker of a record in a pack that was seen before; asks the store for nothing but that pack."""
        key = next((key for key, ids in self._ids.get(kind, {}).items() if id_ in ids), None)
        return None if key is None else self._markers(kind, key).get(id_)

    def find(self, kind: str, id_: str) -> bytes | None:
        """The marker of a record in any pack there is, None if it is in none. Raises: CorruptRecordError."""
        _, error = self._look(kind)
        found = self.known(kind, id_)
        if found is None and error:
            raise error
        return found

    def _look(self, kind: str) -> tuple[dict[str, frozenset[str]], CorruptRecordError | None]:
        """What is in the packs that are there now; the error of one that cannot be read, where there is one."""
        known, found, broken = self._ids.get(kind, {}), {}, None
        for key in self.keys(kind):
            try:
                found[key] = known.get(key) or frozenset(self._markers(kind, key))
            except CorruptRecordError as error:
                broken = error
        self._ids[kind] = found
        return found, broken

    def _markers(self, kind: str, key: str) -> dict[str, bytes]:
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
        markers = read_pack(self._backend, kind, key)
        with self._lock:
            self._recent[key] = markers
            while len(self._recent) > 1 and _size(self._recent.values()) > _KEPT_BYTES:
                self._recent.popitem(last=False)
        return markers


def _size(packs: Iterable[Mapping[str, bytes]]) -> int:
    return sum(len(data) for markers in packs for data in markers.values())


def read_pack(backend: Backend, kind: str, key: str) -> dict[str, bytes]:
    """The markers in a pack by record id, none if it is gone. Raises: CorruptRecordError."""
    data = backend.read(key)
    if data is None:
        return {}
    try:
        body = unseal("pack", f"pack {key}", data)
        if body["kind"] != kind:
            raise CorruptRecordError(f"pack {key} does not match its key, it says {body['kind']}")
    except CorruptRecordError as error:
        raise CorruptRecordError(f"{error}: restore it from a copy, many records are known by it alone") from error
    return {id_: text.encode() for id_, text in body["markers"].items()}


def compact(backend: Backend, *, now: float, older_than_s: float = PACKED_AFTER_S) -> int:
    """Gather the markers of records older than `older_than_s` into packs, kind by kind; how many were gathered.

    Safe beside writers, readers, collectors and other compactors, and after one that was killed. Foreign files stay.
    Args: now: unix seconds.
    Raises: ValueError if a writer that began before such a record was there could still publish; CorruptRecordError if
    a marker is damaged: it stays where it is.
    """
    if older_than_s < PACKED_AFTER_S:
        raise ValueError(f"older_than_s is {older_than_s}: must be {PACKED_AFTER_S} or more, writers may still work")
    by_kind: dict[str, list[str]] = {}
    for marker in backend.sizes("commits"):
        if own_place(marker):
            by_kind.setdefault(marker.split("/")[1], []).append(marker)
    return sum(_compact_kind(backend, kind, markers, now, older_than_s) for kind, markers in by_kind.items())


def _compact_kind(backend: Backend, kind: str, markers: list[str], now: float, older_than_s: float) -> int:
    batch: dict[str, bytes] = {}
    done = 0
    packs = Packs(backend)
    packed = packs.ids(kind)

    def close() -> None:
        nonlocal batch, done
        if len(batch) > 1:  # one marker is as good as a pack of one
            backend.write(HEADER_KEY, encode_json(PACKED_HEADER))
            pack = seal("pack", {"kind": kind, "markers": {id_: data.decode() for id_, data in batch.items()}})
            backend.create(f"packs/{kind}/{attempt_name(now)}.json", pack, now)
            list(threads.map(backend.delete, (record_place(kind, id_).marker for id_ in batch)))
            done += len(batch)
        batch = {}

    with ThreadPoolExecutor(max_workers=16) as threads:  # an object store answers in tens of milliseconds
        for marker, data in zip(markers, threads.map(backend.read, markers), strict=True):
            if data is None or now - decode_commit(marker, data).time_s < older_than_s:
                continue  # None: another compactor gathered it since it was listed
            id_ = marker.rsplit("/", 1)[1].removesuffix(".json")
            if id_ in packed and packs.known(kind, id_) == data:
                backend.delete(marker)  # left by a compactor that was killed
                continue
            batch[id_] = data
            if len(batch) == _MARKERS or sum(map(len, batch.values())) > _BYTES:
                close()
        close()
    return done


def scatter(backend: Backend, *, now: float) -> int:
    """Inverse of `compact`: every packed marker lies by itself again; how many. For a store that nobody uses meanwhile.

    Raises: CorruptRecordError if a pack cannot be read, once the others are done; that one stays.
    """
    done, broken = 0, None
    for key in backend.sizes("packs"):
        if (kind := kind_of_pack(key)) is None:
            continue
        try:
            markers = read_pack(backend, kind, key)
        except CorruptRecordError as error:
            broken = error
            continue
        for id_, data in markers.items():
            backend.create(record_place(kind, id_).marker, data, now)
        backend.delete(key)
        done += len(markers)
    if broken:
        raise broken
    backend.write(HEADER_KEY, encode_json(HEADER))
    return done
