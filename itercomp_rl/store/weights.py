"""Versions of a role's weights: a flat array from each rank, and an index that says where in it every tensor lies."""

import hashlib
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from itercomp_rl.errors import CorruptRecordError, MissingRecordError, StoreError
from itercomp_rl.store.chunks import digest
from itercomp_rl.store.layout import (
    JSON,
    WAY_OUT,
    ArrayInfo,
    Commit,
    Place,
    checked_name,
    encode_json,
    own_place,
    version_place,
)
from itercomp_rl.store.store import Store
from itercomp_rl.store.writers import ALONE, Writers

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
_FLAT = "flat"  # the array of a version; flat-0, flat-1 ... of the ranks that wrote one together
_ALIGNMENT = 64  # bytes; every tensor starts on a multiple, so that loading makes views and no copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published version of a role: looked up in the store once, then passed on to whoever reads more of it."""

    store: Store
    role: str
    number: int
    commit: Commit

    @property
    def attrs(self) -> dict[str, Any]:
        """The attrs that it was published with."""
        return self.commit.attrs["attrs"]

    @property
    def checksum(self) -> str:
        """A hash of names, shapes, dtypes and values: equal for equal tensors."""
        return _checksum(self.commit.attrs["tensors"], [part.sha256 for part in self.commit.arrays.values()])

    @property
    def num_bytes(self) -> int:
        """Size of all tensors together."""
        return sum(part.shape[0] * part.dtype.itemsize for part in self.commit.arrays.values())

    def load(self) -> dict[str, torch.Tensor]:
        """The tensors on the CPU, bit for bit and in the order of publishing, checked against the marker.

        They are views of one buffer a rank, which lives as long as any of them. Raises: CorruptRecordError.
        """
        arrays = self.commit.arrays
        with ThreadPoolExecutor(max(1, len(arrays))) as threads:
            read = threads.map(lambda name: self.store.read_array(self.commit, name), arrays)
            parts = {name: torch.from_numpy(array.view(np.uint8)) for name, array in zip(arrays, read, strict=True)}
        try:
            return {name: _tensor(parts, **entry) for name, entry in self.commit.attrs["tensors"].items()}
        except (KeyError, TypeError, RuntimeError) as error:
            raise CorruptRecordError(f"{self.commit.marker} has no sound tensor index ({error}): {WAY_OUT}") from error


def publish(
    store: Store,
    role: str,
    version: int,
    tensors: Mapping[str, torch.Tensor],
    attrs: Mapping[str, JSON],
    ranks: Writers = ALONE,
) -> Version:
    """Write the tensors as one version of a role and make it visible, all of it or nothing.

    An array holds the bytes, as the widest unsigned words that fit every dtype (u1, u2, u4): bfloat16 as its bits.
    Writers that call this together write an array each, all at once, of their own tensors; the first one's attrs count.
    A version there already with the same tensors, by as many ranks, is left as it is.
    Args: attrs: lineage; an int `base_version` names the version of this role that a delta or LoRA needs, and keeps it.
    Raises: StoreError, on all ranks, if the version exists with other tensors, or the store cannot take one's part.
    """
    place = version_place(role, version)
    if ranks.num == 1:
        index, flat = _flatten(tensors)
        commit, is_ours = store.publish(place, {_FLAT: flat}, {"tensors": index, "attrs": attrs})
        offered = None if is_ours else _checksum(index, [digest(flat)])
    else:
        commit, offered = _publish_together(store, place, tensors, attrs, ranks)
    published = Version(store=store, role=role, number=version, commit=commit)
    if offered is not None and published.checksum != offered:
        raise StoreError(
            f"version {version} of {role} is published already with other tensors (checksum {published.checksum}, "
            f"offered {offered}): two learners write one role, or a retry is not deterministic; publish a new version"
        )
    return published


def _publish_together(
    store: Store,
    place: Place,
    tensors: Mapping[str, torch.Tensor],
    attrs: Mapping[str, JSON],
    ranks: Writers,
) -> tuple[Commit, str]:
    """The commit of a version and the checksum of what these ranks offered; each rank has written its part."""
    is_first = ranks.rank == 0
    folder = _all(ranks, lambda: store.begin(place) if is_first and not store.find(place) else None)[0]

    def write() -> JSON:
        index, flat = _flatten(tensors)
        name = f"{_FLAT}-{ranks.rank}"
        info = asdict(store.write_part(folder, name, flat)) if folder else {"sha256": digest(flat)}
        return {"index": index, "info": info}

    try:
        parts = _all(ranks, write)
    except StoreError:
        if folder and is_first:
            store.abandon(folder)
        raise
    whole = {
        tensor: {**entry, "array": f"{_FLAT}-{rank}"}
        for rank, part in enumerate(parts)
        for tensor, entry in part["index"].items()
    }

    def complete() -> None:
        if folder and is_first:
            infos = {f"{_FLAT}-{rank}": ArrayInfo(**part["info"]) for rank, part in enumerate(parts)}
            store.complete(place, folder, infos, {"tensors": whole, "attrs": attrs})

    _all(ranks, complete)
    commit = store.find(place)
    assert commit is not None, f"{place.marker} was just published"
    return commit, _checksum(whole, [part["info"]["sha256"] for part in parts])


def _all(ranks: Writers, act: Callable[[], JSON]) -> list[Any]:  # Any: what the acts gave
    """What every rank's act gives. Raises: StoreError on all of them where one raises it: none is left waiting."""
    own: StoreError | None = None
    said: dict[str, JSON] = {}
    try:
        said["gave"] = act()
    except StoreError as error:
        own, said["error"] = error, str(error)
    heard: list[Any] = ranks.exchange(said)
    if own is not None:
        raise own
    if errors := [one["error"] for one in heard if "error" in one]:
        raise StoreError(errors[0])
    return [one["gave"] for one in heard]


def versions(store: Store, role: str) -> list[int]:
    """Published versions of a role, rising."""
    keys = store.backend.sizes(f"versions/{checked_name(role)}")
    return sorted(int(key.rsplit("/", 1)[1].removesuffix(".json")) for key in keys if own_place(key))


def latest(store: Store, role: str) -> int | None:
    """The highest published version of a role, None before the first."""
    return max(versions(store, role), default=None)


def find(store: Store, role: str, version: int) -> Version | None:
    """A version of a role, None if it is not published."""
    commit = store.find(version_place(role, version))
    return Version(store=store, role=role, number=version, commit=commit) if commit else None


def open_version(store: Store, role: str, version: int) -> Version:
    """A published version of a role. Raises: MissingRecordError."""
    if found := find(store, role, version):
        return found
    raise MissingRecordError(
        f"store {store.url} holds no version {version} of {role}, but {versions(store, role)}: take the latest, "
        "and a lease on it before loading"
    )


def _flatten(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, dict[str, JSON]], np.ndarray]:
    index: dict[str, dict[str, JSON]] = {}
    end = 0
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise StoreError(f"tensor {name} is {tensor.dtype}: cannot be stored, cast it to one of {sorted(_DTYPES)}")
        index[name] = {"dtype": dtype, "shape": list(tensor.shape), "offset": end}
        end += math.ceil(tensor.nbytes / _ALIGNMENT) * _ALIGNMENT
    flat = np.zeros(end, dtype=np.uint8)
    for name, tensor in tensors.items():
        octets = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        offset = index[name]["offset"]
        assert isinstance(offset, int)
        flat[offset : offset + octets.size] = octets
    word = min((tensor.itemsize for tensor in tensors.values()), default=1)
    return index, flat.view(f"<u{min(word, 4)}")


def _tensor(
    parts: Mapping[str, torch.Tensor], dtype: str, shape: list[int], offset: int, array: str = "flat"
) -> torch.Tensor:
    num_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    return parts[array][offset : offset + num_bytes].view(_DTYPES[dtype]).reshape(shape)


def _checksum(index: Mapping[str, JSON], sha256s: list[str]) -> str:
    flat: JSON = sha256s[0] if len(sha256s) == 1 else list(sha256s)
    return hashlib.sha256(encode_json({"tensors": index, "flat": flat})).hexdigest()
