"""Every key of the store, who writes it, and what the marker of a record says.

    key                                         written by                      how often
    store.json                                  whoever creates the store       once: the schema version
    segments/<kind>/<id>/<attempt>/             one writer, a Zarr v3 group     once, never changed
    commits/<kind>/<id>.json                    that writer, after the segment  create-only: the record is visible
    packs/<kind>/<attempt>.json                 the compactor                   once: old markers, deleted after
    weights/<role>/v<version>-<attempt>/        a learner's ranks, a Zarr group once, never changed
    versions/<role>/<version>.json              its first rank, after all that  create-only: the highest is the latest
    leases/<reader>.json                        its reader                      overwritten
    retired/<role>/v<version>-<attempt>.json    the collector                   before it deletes a version's marker
    <a marker's folder>/.<attempt>              a marker on its way to a disk   gets its own name, or is an orphan
    staging/<attempt>                           who opens an object store       deleted at once, or an orphan
    .rayignore                                  whoever creates a store on disk once
An attempt's name says when it began, so that the collector can tell an orphan from work in progress.
"""

import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from itercomp_rl.errors import CorruptRecordError, InvalidNameError, StoreError

SCHEMA = 1
PACKED_SCHEMA = 2  # of a store with packs, which older software would take for a store without those records
HEADER_KEY = "store.json"
MARKED = ("commits", "packs", "versions", "staging")  # the folders whose keys are created, and never written over
IGNORE_KEY = ".rayignore"  # keeps a store that lies in a job's working folder from travelling with it
FOLDERS = ("segments", "commits", "packs", "weights", "versions", "leases", "retired", "staging")  # at the top
CHUNK_BYTES = 16 * 2**20
ATTEMPT_LIFETIME_S = 6 * 3600.0  # a writer slower than this may not publish: the collector could be deleting its data
WAY_OUT = (
    "restore it from a copy, or delete its marker and repeat the work that made it (compact --undo shows packed ones)"
)
HEADER = {"format": "itercomp-rl store", "schema": SCHEMA}
PACKED_HEADER = {**HEADER, "schema": PACKED_SCHEMA}
JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_MARKER = re.compile(r"commits/([^/]+)/([^/]+)\.json|versions/([^/]+)/(\d{8})\.json")
_FOLDER = re.compile(r"((?:segments/[^/]+/[^/]+/|weights/[^/]+/v\d{8}-)\d{10}-[0-9a-f]{12})/.+")
_ATTEMPT = re.compile(r"(\d{10})-[0-9a-f]{12}")
_PACK = re.compile(rf"packs/({_NAME.pattern})/{_ATTEMPT.pattern}\.json")
_DOCUMENT = re.compile(rf"leases/{_NAME.pattern}\.json|retired/{_NAME.pattern}/v\d{{8}}-{_ATTEMPT.pattern}\.json")
_STAGED = re.compile(rf"(?:[^/]+/)*\.{_ATTEMPT.pattern}|staging/{_ATTEMPT.pattern}")
_CRC32C = {"name": "crc32c"}
_LITTLE_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def checked_name(name: str) -> str:
    """The name itself, if it can be one step of a key and nothing more. Raises: InvalidNameError."""
    if not is_name(name):
        raise InvalidNameError(
            f"store name {name!r}: use 1 to 200 of A-Z a-z 0-9 . _ -, no leading dot, not 'zarr.json'"
        )
    return name


def is_name(name: str) -> bool:
    """Whether `checked_name` takes it."""
    return bool(_NAME.fullmatch(name)) and name != "zarr.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one record lives: `data` and then an attempt's name is its folder, `marker` makes one attempt visible."""

    marker: str
    data: str


def record_place(kind: str, id_: str) -> Place:
    """Place of the record `id_` of a kind, such as images, rankings or pairs."""
    step = f"{checked_name(kind)}/{checked_name(id_)}"
    return Place(marker=f"commits/{step}.json", data=f"segments/{step}/")


def version_place(role: str, version: int) -> Place:
    """Place of one version of a role's weights; eight digits, so that names sort as numbers do."""
    if not 0 <= version < 10**8:
        raise InvalidNameError(f"weights version {version} of {role}: must be 0 to 99999999")
    return Place(marker=f"versions/{checked_name(role)}/{version:08d}.json", data=f"weights/{role}/v{version:08d}-")


def place_of_marker(marker: str) -> Place:
    """Inverse of `record_place` and `version_place`, from a listed key. Raises: StoreError for a key of neither."""
    place = own_place(marker)
    if place is None:
        raise StoreError(f"{marker} is not a key this software writes: move it out of the store")
    return place


def own_place(marker: str) -> Place | None:
    """As `place_of_marker`, None for a key that is no marker of ours: anybody may lay a file between them."""
    match = _MARKER.fullmatch(marker)
    if match and match[1] and is_name(match[1]) and is_name(match[2]):
        return record_place(match[1], match[2])
    return version_place(match[3], int(match[4])) if match and match[3] and is_name(match[3]) else None


def kind_of_pack(key: str) -> str | None:
    """The kind whose markers the pack at a key of packs/ holds; None if this software writes no such key."""
    match = _PACK.fullmatch(key)
    return match[1] if match else None


def is_own(key: str) -> bool:
    """Whether this software writes such a key; what else lies in a store is foreign: `verify` names it, others pass."""
    is_known = _DOCUMENT.fullmatch(key) or is_staged(key) or folder_of(key) or kind_of_pack(key) or own_place(key)
    return key in (HEADER_KEY, IGNORE_KEY) or bool(is_known)


def attempt_name(time_s: float) -> str:
    """A name nobody else has, that says when it began (unix seconds): `1700000000-5f2a9c01d3e4`."""
    return f"{int(time_s):010d}-{secrets.token_hex(6)}"


def staged_name(time_s: float) -> str:
    """The hidden name of a file that is on its way to the name of a marker beside it: `.1700000000-5f2a9c01d3e4`."""
    return f".{attempt_name(time_s)}"


def is_staged(key: str) -> bool:
    """Whether a key is of such a file, or of a try of create-only writes: nobody reads it, the collector deletes it."""
    return bool(_STAGED.fullmatch(key))


def attempt_time(key: str) -> float | None:
    """When the attempt that a folder or staged marker belongs to began, unix seconds; None if its name does not say."""
    match = _ATTEMPT.fullmatch(key, len(key) - 23) if len(key) > 23 else None
    return float(match[1]) if match else None


def folder_of(key: str) -> str | None:
    """The attempt's folder that a key of segments/ or weights/ lies in; None if this software writes no such key."""
    match = _FOLDER.fullmatch(key)
    return match[1] if match else None


def array_metadata(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    """The `zarr.json` of one array: crc32c on every chunk, no compression (noise-like images do not shrink).

    Images, u1 [n, H, W, 3]: a chunk is one image, a shard the whole array, as one file per small image is slow.
    Everything else: chunks of whole rows, about 16 MiB. Raises: StoreError for a dtype without a Zarr v3 name.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise StoreError(f"dtype {dtype} cannot be stored: use bool, integers or floats of at most 64 bits")
    is_images = len(shape) == 4 and shape[3] == 3 and dtype == np.uint8
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    rows = 1 if is_images else CHUNK_BYTES // max(1, row_bytes)
    chunk = [max(1, size) for size in (min(rows, *shape[:1]), *shape[1:])] if shape else []
    codecs: list[dict[str, Any]] = [_LITTLE_BYTES, _CRC32C]
    if is_images:
        shard = {"chunk_shape": chunk, "codecs": codecs, "index_codecs": codecs, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": shard}]
        chunk = [max(1, size) for size in shape]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},  # no directories to flush
        "fill_value": False if dtype.kind == "b" else 0,
        "codecs": codecs,
        "attributes": {},
    }


def group_metadata(attrs: Mapping[str, JSON]) -> dict[str, Any]:
    """The `zarr.json` of a segment; its attributes are there for other readers of Zarr, ours read the marker."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {"itercomp_rl_schema": SCHEMA, **attrs}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayInfo:
    """What a marker says of one array: how to read it, its sha256 (chunks.digest), what must lie in the store."""

    metadata: dict[str, Any]  # the array's zarr.json
    sha256: str
    num_objects: int
    num_bytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.metadata["shape"])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.metadata["data_type"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A published record, as its marker states it.

    Example: Commit(marker="commits/images/r1-p0.json", data="segments/images/r1-p0/1700000000-5f2a9c01d3e4",
    arrays={"images": ArrayInfo(...)}, attrs={"round": 1}, writer="node7:4711", time_s=1.7e9, software={"zarr": ...})
    """

    marker: str
    data: str | None  # None: a record of attrs alone
    arrays: dict[str, ArrayInfo]
    attrs: dict[str, Any]  # JSON: who put it knows its types
    writer: str
    time_s: float
    software: dict[str, str]

    @property
    def id(self) -> str:
        return self.marker.rsplit("/", 1)[1].removesuffix(".json")


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Bytes of a JSON object, the same for the same value. Raises: StoreError if JSON cannot say it, as nan."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}; convert it to plain numbers, strings, lists") from error


def seal(name: str, body: Mapping[str, Any]) -> bytes:
    """Bytes of a JSON document and the sha256 of its text, so that a flipped bit shows."""
    return encode_json({"sha256": hashlib.sha256(encode_json(body)).hexdigest(), name: body})


def unseal(name: str, key: str, data: bytes) -> dict[str, Any]:
    """Inverse of `seal`. Raises: CorruptRecordError without a way out."""
    try:
        body = json.loads(data)[name]
        is_sound = seal(name, body) == data  # no bit may differ, not even one JSON does not care about
    except (ValueError, KeyError, TypeError, StoreError) as error:
        raise CorruptRecordError(f"{key} cannot be read ({error})") from error
    if not is_sound:
        raise CorruptRecordError(f"{key} does not match its checksum")
    return body


def encode_commit(commit: Commit) -> bytes:
    """Bytes of a marker."""
    # Not asdict of all: it would copy an index of a thousand tensors, twice per version.
    body = {field.name: getattr(commit, field.name) for field in fields(commit)}
    return seal("commit", body | {"arrays": {name: asdict(info) for name, info in commit.arrays.items()}})


def decode_commit(marker: str, data: bytes) -> Commit:
    """Inverse of `encode_commit`. Raises: CorruptRecordError."""
    try:
        body = unseal("commit", f"marker {marker}", data)
    except CorruptRecordError as error:
        raise CorruptRecordError(f"{error}: {WAY_OUT}") from error
    commit = Commit(**{**body, "arrays": {name: ArrayInfo(**info) for name, info in body["arrays"].items()}})
    if commit.marker != marker:
        raise CorruptRecordError(f"marker {marker} does not match its key, it says {commit.marker}: {WAY_OUT}")
    _check_place(commit)
    return commit


def _check_place(commit: Commit) -> None:
    """A marker speaks of its own data alone, however it came to say otherwise."""
    place = place_of_marker(commit.marker)
    is_own = commit.data is None or (
        commit.data.startswith(place.data) and _ATTEMPT.fullmatch(commit.data.removeprefix(place.data))
    )
    if not is_own or any(not _NAME.fullmatch(name) for name in commit.arrays):
        raise CorruptRecordError(f"marker {commit.marker} names data that are not its own: {WAY_OUT}")
