"""Whole arrays to and from the chunks that Zarr lays out, without a copy of the array and with every core hashing.

Zarr reads what is written here and the other way round; rows of an array are read by Zarr itself.

    array, C order     one run of bytes, little-endian
    chunk              whole rows of it, the last one filled up with zeros, and 4 bytes of crc32c
    shard of images    every image with its crc32c, then where each begins and how long it is (u8), and their crc32c
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import google_crc32c
import numpy as np

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store.backend import Backend
from itercomp_rl.store.layout import CHUNK_BYTES, ArrayInfo, encode_json

T = TypeVar("T")

_THREADS = 8  # hashing and disks use the cores there are; an object store answers many requests at once
_CRC_BYTES = 4


def digest(values: np.ndarray) -> str:
    """What a marker calls the sha256 of an array, hex: of its bytes, or of the sha256 of every 16 MiB of more."""
    pieces = _pieces(_octets(values))
    return _joined(_each(_sha256, pieces))


def write_array(backend: Backend, path: str, values: np.ndarray, metadata: dict[str, Any]) -> ArrayInfo:
    """Write `zarr.json` and the chunks of an array, little-endian and in C order, into a folder nobody reads yet.

    Raises: StoreError.
    """
    document = encode_json(metadata)
    backend.write_new(f"{path}/zarr.json", [document])
    octets = _octets(values)
    chunks = list(_shard(octets, metadata) if _is_sharded(metadata) else _chunks(octets, metadata))
    keys = [f"{path}/{name}" for name in _names(metadata, len(chunks))]
    jobs: list[Callable[[], bytes | None]] = [lambda piece=piece: _sha256(piece) for piece in _pieces(octets)]
    jobs += [
        lambda key=key, parts=parts: backend.write_new(key, parts) for key, parts in zip(keys, chunks, strict=True)
    ]
    digests = [found for found in _each(lambda job: job(), jobs) if found is not None]
    return ArrayInfo(
        metadata=metadata,
        sha256=_joined(digests),
        num_objects=1 + len(chunks),
        num_bytes=len(document) + sum(len(memoryview(part).cast("B")) for parts in chunks for part in parts),
    )


def read_array(backend: Backend, path: str, info: ArrayInfo) -> np.ndarray:
    """The whole array, every byte checked. Raises: CorruptRecordError without a way out; StoreError."""
    size = math.prod(info.shape) * info.dtype.itemsize
    octets = _read_shard(backend, path, info, size) if _is_sharded(info.metadata) else _read(backend, path, info, size)
    if _joined(_each(_sha256, _pieces(octets))) != info.sha256:
        raise CorruptRecordError(f"{path} does not match its sha256")
    return octets.view(info.dtype).reshape(info.shape)


def _read(backend: Backend, path: str, info: ArrayInfo, size: int) -> np.ndarray:
    length = _chunk_bytes(info.metadata)
    num = math.ceil(size / length)
    padded = np.empty(num * length, np.uint8)

    def read(number: int, name: str) -> None:
        chunk, crc = padded[number * length : (number + 1) * length], bytearray(_CRC_BYTES)
        _fill(backend, f"{path}/{name}", [chunk, np.frombuffer(crc, np.uint8)])
        if crc != _crc([chunk]):
            raise CorruptRecordError(f"{path}/{name} is a wrong chunk: its crc32c differs")

    _each(lambda item: read(*item), enumerate(_names(info.metadata, num)))
    return padded[:size]


def _read_shard(backend: Backend, path: str, info: ArrayInfo, size: int) -> np.ndarray:
    num = info.shape[0] if size else 0
    if not num:
        return np.empty(0, np.uint8)
    length = size // num
    (name,) = _names(info.metadata, 1)
    shard = np.empty(num * (length + _CRC_BYTES) + num * 16 + _CRC_BYTES, np.uint8)
    _fill(backend, f"{path}/{name}", [shard])
    index = shard[-num * 16 - _CRC_BYTES : -_CRC_BYTES]
    wrong = CorruptRecordError(f"{path}/{name} holds a wrong chunk: its crc32c or its index differs")
    if shard[-_CRC_BYTES:].tobytes() != _crc([index]):
        raise wrong
    images = np.empty((num, length), np.uint8)
    for image, (begin, stored) in zip(images, index.view("<u8").reshape(num, 2).tolist(), strict=True):
        if stored != length + _CRC_BYTES or begin + stored > shard.size:
            raise wrong
        image[:] = shard[begin : begin + length]
        if shard[begin + length : begin + stored].tobytes() != _crc([image]):
            raise wrong
    return images.reshape(-1)


def _fill(backend: Backend, key: str, buffers: list[np.ndarray]) -> None:
    expected = sum(buffer.nbytes for buffer in buffers)
    found = backend.read_into(key, [buffer.data for buffer in buffers])
    if found != expected:
        state = "is missing" if found is None else f"has {found} bytes"
        raise CorruptRecordError(f"{key} {state} where its marker says {expected} bytes")


def _chunks(octets: np.ndarray, metadata: dict[str, Any]) -> Iterable[list[Any]]:
    length = _chunk_bytes(metadata)
    for begin in range(0, octets.size, length):
        parts = [octets[begin : begin + length]]
        if missing := length - parts[0].size:
            parts.append(np.zeros(missing, np.uint8))
        yield [part.data for part in parts] + [_crc(parts)]


def _shard(octets: np.ndarray, metadata: dict[str, Any]) -> Iterable[list[Any]]:
    if not octets.size:
        return
    images = octets.reshape(metadata["shape"][0], -1)
    stored = images.shape[1] + _CRC_BYTES
    index = np.array([(row * stored, stored) for row in range(len(images))], "<u8").reshape(-1).view(np.uint8)
    yield [part for image in images for part in (image.data, _crc([image]))] + [index.data, _crc([index])]


def _chunk_bytes(metadata: dict[str, Any]) -> int:
    shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    return math.prod(shape) * np.dtype(metadata["data_type"]).itemsize


def _is_sharded(metadata: dict[str, Any]) -> bool:
    return metadata["codecs"][0]["name"] == "sharding_indexed"


def _names(metadata: dict[str, Any], num: int) -> list[str]:
    """Chunks are cut along the first axis alone: c.0.0.0, c.1.0.0, and c where there is no axis."""
    rest = [0] * (len(metadata["shape"]) - 1)
    if not metadata["shape"]:
        return ["c"]
    return [".".join(map(str, ["c", number, *rest])) for number in range(num)]


def _crc(parts: Iterable[np.ndarray]) -> bytes:
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, part)  # type: ignore[arg-type]  # any buffer will do
    return value.to_bytes(_CRC_BYTES, "little")


def _octets(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _pieces(octets: np.ndarray) -> list[np.ndarray]:
    return [octets[begin : begin + CHUNK_BYTES] for begin in range(0, max(1, octets.size), CHUNK_BYTES)]


def _sha256(piece: np.ndarray) -> bytes:
    return hashlib.sha256(piece.data).digest()


def _joined(digests: list[bytes]) -> str:
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def _each(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Results in order; the first failure is raised, once everything begun has ended."""
    things = list(items)
    if len(things) <= 1:
        return [work(thing) for thing in things]
    with ThreadPoolExecutor(min(_THREADS, len(things))) as threads:
        return list(threads.map(work, things))
