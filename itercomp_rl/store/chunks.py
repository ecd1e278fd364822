"""Whole arrays to and from the chunks that Zarr lays out, without a copy of the array and with every core hashing.

Zarr reads what is written here and the other way round. Single images are read out of their shard by byte ranges.

    array, C order     one run of bytes, little-endian
    chunk              whole rows of it, the last one filled up with zeros, and 4 bytes of crc32c
    shard of images    every image with its crc32c, then where each begins and how long it is (u8), and their crc32c
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Where each image of an array lies in its one object; small enough to be kept by whoever reads single images."""

    key: str
    size: int  # bytes of the object
    image_shape: tuple[int, ...]
    begins: np.ndarray  # [n] u8: the byte at which each image begins


def holds_images(info: ArrayInfo) -> bool:
    """Whether an array is one shard of images, each with a checksum of its own, and has any."""
    return _is_sharded(info.metadata) and math.prod(info.shape) > 0


def _is_sharded(metadata: dict[str, Any]) -> bool:
    return metadata["codecs"][0]["name"] == "sharding_indexed"


def open_shard(backend: Backend, path: str, info: ArrayInfo) -> Shard:
    """The index of a shard of images, which are not none. Raises: CorruptRecordError without a way out; StoreError."""
    num, image_shape = info.shape[0], info.shape[1:]
    (name,) = _names(info.metadata, 1)
    key, stored = f"{path}/{name}", math.prod(image_shape) + _CRC_BYTES
    size = num * (stored + 16) + _CRC_BYTES
    index, crc = np.empty(num * 16, np.uint8), np.empty(_CRC_BYTES, np.uint8)
    _fill_ranges(backend, key, size, [(size - index.size - _CRC_BYTES, index), (size - _CRC_BYTES, crc)])
    places = index.view("<u8").reshape(num, 2)
    is_sound = (
        crc.tobytes() == _crc([index]) and (places[:, 1] == stored).all() and (places[:, 0] <= size - stored).all()
    )
    if not is_sound:
        raise CorruptRecordError(f"{key} holds a wrong chunk: its index or the crc32c of that differs")
    return Shard(key=key, size=size, image_shape=image_shape, begins=places[:, 0].copy())


def read_images(backend: Backend, shard: Shard, rows: Sequence[int]) -> np.ndarray:
    """The images [len(rows), H, W, 3] at some rows, each checked by its crc32c; no other image is read.

    Raises: CorruptRecordError without a way out; StoreError.
    """
    images = np.empty((len(rows), math.prod(shard.image_shape)), np.uint8)
    crcs = np.empty((len(rows), _CRC_BYTES), np.uint8)
    ranges = []
    for begin, image, crc in zip(shard.begins[list(rows)].tolist(), images, crcs, strict=True):
        ranges += [(begin, image), (begin + image.size, crc)]
    if ranges:
        _fill_ranges(backend, shard.key, shard.size, ranges)
    for row, image, crc in zip(rows, images, crcs, strict=True):
        if crc.tobytes() != _crc([image]):
            raise CorruptRecordError(f"{shard.key} holds a wrong chunk: the crc32c of image {row} differs")
    return images.reshape(len(rows), *shard.image_shape)


def _fill_ranges(backend: Backend, key: str, size: int, ranges: list[tuple[int, np.ndarray]]) -> None:
    found = backend.read_ranges(key, size, [(begin, buffer.data) for begin, buffer in ranges])
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes"
        raise CorruptRecordError(f"{key} {state} where its marker says {size} bytes")


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
