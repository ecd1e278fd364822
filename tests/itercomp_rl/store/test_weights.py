"""Weights come back bit for bit, and no version is ever changed."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from itercomp_rl.errors import CorruptRecordError, MissingRecordError, StoreError
from itercomp_rl.store import weights
from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S, ArrayInfo
from itercomp_rl.store.retention import verify
from itercomp_rl.store.store import Store, open_store
from tests.parts.thread_writers import Table

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bits there are, so nans and infinities too; bool as 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    octets = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    return octets.view(dtype).reshape(shape)


def mixed(seed: int) -> dict[str, torch.Tensor]:
    shapes = [(3, 5), (), (7,), (0, 4), (2, 1, 3)]
    return {f"layer.{d}.{s}": random_tensor(d, s, seed + i) for i, d in enumerate(DTYPES) for s in shapes}


def test_every_dtype_and_shape_comes_back_bit_for_bit_and_in_order(store: Store) -> None:
    tensors = mixed(seed=0)
    ref = weights.publish(store, "policy", 3, tensors, {"round": 1})
    loaded = weights.open_version(store, "policy", 3).load()
    assert list(loaded) == list(tensors)
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[name]) == bits(tensor)
    assert weights.open_version(store, "policy", 3).attrs == {"round": 1}
    assert weights.find(store, "policy", 3) == ref
    assert (ref.role, ref.number) == ("policy", 3)
    assert verify(store) == []


def test_all_65536_values_of_bfloat16_survive() -> None:
    store = open_store("memory://", create=True)
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    weights.publish(store, "policy", 0, {"w": values}, {})
    assert bits(weights.open_version(store, "policy", 0).load()["w"]) == bits(values)
    (commit,) = [store.find(place) for place in [weights.version_place("policy", 0)]]
    assert commit is not None
    assert commit.arrays["flat"].dtype == np.uint16


@pytest.mark.parametrize(
    ("dtypes", "word"),
    [
        ([torch.float32], "u4"),
        ([torch.float64, torch.int64], "u4"),
        ([torch.float32, torch.bfloat16], "u2"),
        ([torch.float32, torch.uint8], "u1"),
        ([], "u1"),
    ],
)
def test_the_flat_array_has_the_widest_words_that_fit(dtypes: list[torch.dtype], word: str) -> None:
    store = open_store("memory://", create=True)
    weights.publish(store, "policy", 0, {str(dtype): torch.ones(3).to(dtype) for dtype in dtypes}, {})
    commit = store.find(weights.version_place("policy", 0))
    assert commit is not None
    assert commit.arrays["flat"].dtype == np.dtype(word)
    assert len(weights.open_version(store, "policy", 0).load()) == len(dtypes)


def test_views_and_shared_tensors_are_stored_by_value(store: Store) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"transposed": base.T, "every_other": base[:, ::2], "tied_a": base, "tied_b": base}
    weights.publish(store, "policy", 0, {**tensors, "grad": torch.nn.Parameter(base)}, {})
    loaded = weights.open_version(store, "policy", 0).load()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    loaded["tied_a"].add_(1)  # loaded tensors can be written, and do not share values
    assert torch.equal(loaded["tied_b"], base)


def test_a_loaded_state_dict_gives_the_same_module(store: Store) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    weights.publish(store, "reward-aesthetic", 0, module.state_dict(), {})
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    other.load_state_dict(weights.open_version(store, "reward-aesthetic", 0).load())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(module(x), other(x))


def test_the_latest_version_is_the_highest(store: Store) -> None:
    assert weights.latest(store, "policy") is None
    for version in (2, 10, 9):
        weights.publish(store, "policy", version, {"w": torch.full((2,), float(version))}, {})
    weights.publish(store, "policy-ema", 11, {"w": torch.zeros(1)}, {})
    assert weights.versions(store, "policy") == [2, 9, 10]
    assert weights.latest(store, "policy") == 10
    assert weights.open_version(store, "policy", 10).load()["w"].tolist() == [10.0, 10.0]


def test_publishing_the_same_tensors_again_changes_nothing(store: Store) -> None:
    ref = weights.publish(store, "policy", 1, mixed(seed=0), {"try": 1})
    before = store.backend.sizes("weights")
    assert weights.publish(store, "policy", 1, mixed(seed=0), {"try": 2}) == ref
    assert store.backend.sizes("weights") == before
    assert weights.open_version(store, "policy", 1).attrs == {"try": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.tensor([1.0, 2.5])},  # a value
        {"v": torch.tensor([1.0, 2.0])},  # a name
        {"w": torch.tensor([[1.0, 2.0]])},  # a shape of the same bytes
        {"w": torch.tensor([1.0, 2.0]).view(torch.int32)},  # a dtype of the same bytes
    ],
)
def test_a_version_is_never_replaced_by_other_tensors(other: dict[str, torch.Tensor]) -> None:
    store = open_store("memory://", create=True)
    weights.publish(store, "policy", 1, {"w": torch.tensor([1.0, 2.0])}, {})
    with pytest.raises(StoreError, match="version 1 of policy is published already with other tensors"):
        weights.publish(store, "policy", 1, other, {})
    assert weights.open_version(store, "policy", 1).load()["w"].tolist() == [1.0, 2.0]


def test_weights_larger_than_a_chunk_lie_in_several(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True, durable=False)
    tensors = {"a": torch.arange(5 * 2**20, dtype=torch.int32), "b": torch.ones(7, dtype=torch.int32)}  # 20 MiB + 28 B
    weights.publish(store, "policy", 0, tensors, {})
    chunks = {key: size for key, size in store.backend.sizes("weights").items() if "/c." in key}
    assert list(chunks.values()) == [16 * 2**20 + 4] * 2  # crc32c is 4 bytes
    assert all(
        torch.equal(weights.open_version(store, "policy", 0).load()[name], tensor) for name, tensor in tensors.items()
    )
    store.backend.delete(next(iter(chunks)))
    with pytest.raises(CorruptRecordError, match="restore it from a copy, or delete its marker"):
        weights.open_version(store, "policy", 0).load()


def test_a_damaged_version_is_not_loaded(store: Store) -> None:
    weights.publish(store, "policy", 0, {"w": torch.zeros(100)}, {})
    (key,) = [key for key in store.backend.sizes("weights") if "/c." in key]
    data = bytearray(store.backend.read(key) or b"")
    data[50] ^= 4
    store.backend.write(key, bytes(data))
    with pytest.raises(CorruptRecordError, match="wrong chunk"):
        weights.open_version(store, "policy", 0).load()


def test_a_version_that_is_not_there_is_named_with_those_that_are(store: Store) -> None:
    weights.publish(store, "policy", 4, {"w": torch.zeros(1)}, {})
    with pytest.raises(MissingRecordError, match=r"no version 3 of policy, but \[4\]: take the latest"):
        weights.open_version(store, "policy", 3).load()
    assert weights.find(store, "policy", 3) is None


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to(torch.float8_e4m3fn)])
def test_a_dtype_it_cannot_store_is_named(tensor: torch.Tensor) -> None:
    store = open_store("memory://", create=True)
    with pytest.raises(StoreError, match=r"tensor w is torch\..*: cannot be stored, cast it to one of"):
        weights.publish(store, "policy", 0, {"w": tensor}, {})
    assert weights.latest(store, "policy") is None


def together(store: Store, shares: list[dict[str, torch.Tensor]], version: int = 0) -> list[weights.Version]:
    """Every rank publishes its share, all at once."""
    return [call.result() for call in _calls(store, shares, version)]


def _calls(store: Store, shares: list[dict[str, torch.Tensor]], version: int = 0) -> list["Future[weights.Version]"]:
    table = Table(len(shares))

    def publish(rank: int) -> weights.Version:
        return weights.publish(store, "policy", version, shares[rank], {"rank": rank}, table.seat(rank))

    with ThreadPoolExecutor(len(shares)) as threads:
        return [threads.submit(publish, rank) for rank in range(len(shares))]


def test_ranks_write_one_version_together_each_its_own_tensors(store: Store) -> None:
    tensors = mixed(seed=0)
    shares = [dict(list(tensors.items())[rank::3]) for rank in range(3)]
    refs = together(store, shares)
    assert refs == [weights.find(store, "policy", 0)] * 3
    loaded = weights.open_version(store, "policy", 0).load()
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[name]) == bits(tensor)
    assert weights.open_version(store, "policy", 0).attrs == {"rank": 0}
    assert verify(store) == []


def test_a_rank_without_tensors_writes_with_the_others() -> None:
    store = open_store("memory://", create=True)
    together(store, [{"w": torch.ones(3)}, {}])
    assert weights.open_version(store, "policy", 0).load()["w"].tolist() == [1, 1, 1]
    assert verify(store) == []


def test_ranks_that_publish_a_version_again_may_not_change_it() -> None:
    store = open_store("memory://", create=True)
    first = together(store, [{"a": torch.zeros(3)}, {"b": torch.ones(2)}])
    assert together(store, [{"a": torch.zeros(3)}, {"b": torch.ones(2)}]) == first
    with pytest.raises(StoreError, match="is published already with other tensors"):
        together(store, [{"a": torch.zeros(3)}, {"b": torch.zeros(2)}])
    assert verify(store) == []


def test_what_one_rank_cannot_write_is_no_version_and_all_of_it_goes(store: Store, monkeypatch: Any) -> None:
    written: list[str] = []
    write_part = Store.write_part

    def full_for_one(self: Store, folder: str, name: str, array: np.ndarray) -> ArrayInfo:
        if name.endswith("-1"):
            raise StoreError("the disk is full")
        info = write_part(self, folder, name, array)
        written.append(folder)
        return info

    shares = [{"a": torch.zeros(3)}, {"b": torch.zeros(2)}]
    monkeypatch.setattr(Store, "write_part", full_for_one)
    heard = [call.exception() for call in _calls(store, shares)]
    assert [str(error) for error in heard] == ["the disk is full"] * 2
    assert len(written) == 1
    assert (weights.versions(store, "policy"), store.backend.sizes(written[0])) == ([], {})
    monkeypatch.undo()
    assert verify(store) == []
    together(store, shares)
    assert weights.open_version(store, "policy", 0).load().keys() == {"a", "b"}


def test_a_tensor_that_one_rank_cannot_store_is_named_to_all(store: Store) -> None:
    shares = [{"a": torch.zeros(3)}, {"b": torch.zeros(2, dtype=torch.complex64)}]
    for call in _calls(store, shares):
        assert "tensor b is torch.complex64: cannot be stored" in str(call.exception())
    assert weights.versions(store, "policy") == []
    assert verify(store) == []


def test_ranks_that_took_too_long_publish_nothing() -> None:
    now = iter(range(0, 10**6, int(ATTEMPT_LIFETIME_S) + 1))
    slow = replace(open_store("memory://", create=True), clock=lambda: 1.7e9 + next(now))
    heard = [str(call.exception()) for call in _calls(slow, [{"a": torch.zeros(3)}, {"b": torch.zeros(2)}])]
    assert all("the collector may delete unpublished data" in text for text in heard)
    assert weights.versions(slow, "policy") == []
