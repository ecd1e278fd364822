"""Weights published in parts: bit for bit the whole ones, smaller, and never without their anchor."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store import weights
from itercomp_rl.store.deltas import DeltaPublisher, load_whole
from itercomp_rl.store.layout import encode_commit, version_place
from itercomp_rl.store.retention import collect
from itercomp_rl.store.store import Store, open_store
from tests.parts.thread_writers import Table


@pytest.fixture
def store() -> Store:
    return open_store("memory://", create=True)


def learned(num: int) -> list[dict[str, torch.Tensor]]:
    """Versions of eight tensors of which each update changes one or two, and one never."""
    generator = torch.Generator().manual_seed(0)
    state = {f"w{i}": torch.randn(64, generator=generator).to(torch.bfloat16) for i in range(8)}
    found = [dict(state)]
    for number in range(1, num):
        for i in {number % 7, number * 3 % 7}:
            state[f"w{i}"] = state[f"w{i}"] + 1
        found.append(dict(state))
    return found


def test_every_version_reads_back_bit_for_bit_and_parts_are_smaller(store: Store) -> None:
    versions = learned(9)
    publisher = DeltaPublisher(store, "live", anchor_every=4)
    refs = [publisher.publish(number, tensors, {"round": 0}) for number, tensors in enumerate(versions)]
    for number, tensors in enumerate(versions):
        found = load_whole(weights.open_version(store, "live", number))
        assert list(found) == list(tensors)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    bases = [weights.open_version(store, "live", number).attrs.get("base_version") for number in range(9)]
    assert bases == [None, 0, 0, 0, None, 4, 4, 4, None]
    assert refs[1].num_bytes < refs[3].num_bytes < refs[0].num_bytes


def test_a_reader_of_an_earlier_version_needs_the_newest_part_alone(store: Store) -> None:
    versions = learned(6)
    publisher = DeltaPublisher(store, "live", anchor_every=8)
    for number, tensors in enumerate(versions):
        publisher.publish(number, tensors, {})
    for held in range(5):
        moved = {**versions[held], **weights.open_version(store, "live", 5).load()}
        assert all(torch.equal(moved[name], tensor) for name, tensor in versions[5].items())


def test_a_version_that_changed_throughout_is_an_anchor(store: Store) -> None:
    publisher = DeltaPublisher(store, "live", anchor_every=100)
    for number in range(3):
        publisher.publish(number, {"a": torch.full((4,), float(number)), "b": torch.full((2,), float(number))}, {})
        assert "base_version" not in weights.open_version(store, "live", number).attrs


def test_an_anchor_lives_as_long_as_its_newest_part(store: Store) -> None:
    publisher = DeltaPublisher(store, "live", anchor_every=20)
    for number, tensors in enumerate(learned(12)):
        publisher.publish(number, tensors, {})
    collect(store, grace_s=0, now=1e12)
    assert weights.versions(store, "live") == [0, 8, 9, 10, 11]
    assert all(
        torch.equal(load_whole(weights.open_version(store, "live", 11))[name], t) for name, t in learned(12)[11].items()
    )


def test_a_part_on_another_anchor_is_refused(store: Store) -> None:
    publisher = DeltaPublisher(store, "live", anchor_every=2)
    for number, tensors in enumerate(learned(4)):
        publisher.publish(number, tensors, {})
    commit = store.find(version_place("live", 3))
    assert commit is not None
    attrs = {**commit.attrs, "attrs": {**commit.attrs["attrs"], "base_version": 0}}
    store.backend.write(commit.marker, encode_commit(replace(commit, attrs=attrs)))
    with pytest.raises(CorruptRecordError, match="does not make what was published"):
        load_whole(weights.open_version(store, "live", 3))


def test_ranks_publish_the_parts_that_one_would(store: Store) -> None:
    versions, table = learned(9), Table(2)
    alone = DeltaPublisher(store, "alone", anchor_every=4)

    def be_rank(rank: int) -> None:
        publisher = DeltaPublisher(store, "live", 4, table.seat(rank))
        for number, tensors in enumerate(versions):
            share = dict(list(tensors.items())[rank * 4 : rank * 4 + 4])  # of some versions only one rank's changed
            publisher.publish(number, share, {"round": 0})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(be_rank, range(2)))
    for number, tensors in enumerate(versions):
        alone.publish(number, tensors, {"round": 0})
        found = load_whole(weights.open_version(store, "live", number))
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        together, one = (weights.open_version(store, role, number) for role in ("live", "alone"))
        assert together.attrs == one.attrs
        assert together.load().keys() == one.load().keys()
