"""Readers, writers and collectors interleaved at every operation on the store: no reader ever gets a wrong value."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import StoreError
from itercomp_rl.store import weights
from itercomp_rl.store.backend import Backend
from itercomp_rl.store.layout import version_place
from itercomp_rl.store.retention import MIN_VERSIONS, Lease, collect, lease
from itercomp_rl.store.store import Store, open_store

GRACE_S = 60.0
LEASE_S = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Backend):
    """Lets the others act before every read, write and delete of the collector."""

    others: list[Iterator[None]] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=lambda: iter(()))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _let_others_act(self) -> None:
        with self.lock:  # the collector reads markers in several threads
            for _ in range(next(self.order, 0)):
                for other in self.others:
                    next(other, None)

    def read(self, key: str) -> bytes | None:
        self._let_others_act()
        return Backend.read(self, key)

    def write(self, key: str, data: bytes) -> None:
        self._let_others_act()
        Backend.write(self, key, data)

    def delete(self, key: str) -> None:
        self._let_others_act()
        Backend.delete(self, key)

    def delete_folder(self, folder: str) -> None:
        self._let_others_act()
        Backend.delete_folder(self, folder)


@dataclass
class World:
    """A store, a clock, and what its readers saw."""

    store: Store
    now: float = 1.8e9
    published: int = -1
    loaded: int = 0
    refused: int = 0


def publish(world: World) -> None:
    world.published += 1
    weights.publish(world.store, "policy", world.published, {"w": torch.full((64,), float(world.published))}, {})


def reader(world: World, name: str, slowness: int, *, keeps_lease: bool) -> Iterator[None]:
    """Lease, find the marker, dawdle, read: every `yield` is a moment at which anything may happen."""
    while True:
        version = weights.latest(world.store, "policy")
        assert version is not None
        yield
        lease(world.store, Lease(reader=name, role="policy", version=version, expires_s=world.now + LEASE_S))
        yield
        commit = world.store.find(version_place("policy", version))
        if commit is None:
            continue  # collected since it was listed: take the latest again
        for _ in range(slowness):
            yield
        try:
            flat = world.store.read_array(commit, "flat")
        except StoreError:
            assert not keeps_lease, f"{name} held a lease on version {version} and could not read it"
            world.refused += 1
            continue
        np.testing.assert_array_equal(flat.view("<f4"), np.full(64, version, np.float32))
        world.loaded += 1


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["publish", "collect", "read"]), min_size=10, max_size=40),
    order=st.lists(st.integers(0, 2), max_size=60),
    slowness=st.integers(0, 5),
)
def test_no_reader_under_a_lease_is_ever_refused_or_wrong(steps: list[str], order: list[int], slowness: int) -> None:
    store = open_store("memory://", create=True)
    world = World(store=store)
    publish(world)
    readers = [reader(world, f"roller-{number}", slowness, keeps_lease=True) for number in range(2)]
    backend = store.backend
    collector = Store(
        backend=Interrupted(
            url=backend.url, objects=backend.objects, root=None, durable=False, others=readers, order=iter(order)
        )
    )
    for what in steps:
        if what == "publish":
            for _ in range(MIN_VERSIONS):  # what was the latest is now unwanted, but for leases
                publish(world)
        elif what == "collect":
            world.now += GRACE_S  # what an earlier collection retired is due; every lease still holds
            collect(collector, grace_s=GRACE_S, now=world.now)
        else:
            for each in readers:
                next(each)
    for each in readers:
        for _ in range(4 + slowness):
            next(each)
    assert world.loaded >= 1


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["publish", "collect", "read"]), st.floats(0, 30_000)), max_size=40))
def test_a_reader_that_outlives_its_lease_is_refused_but_never_wrong(steps: list[tuple[str, float]]) -> None:
    world = World(store=open_store("memory://", create=True))
    publish(world)
    slow = reader(world, "roller-0", 3, keeps_lease=False)
    for what, seconds in steps:
        world.now += seconds
        if what == "publish":
            publish(world)
        elif what == "collect":
            collect(world.store, grace_s=GRACE_S, now=world.now)
        else:
            next(slow)


def test_without_a_lease_the_same_schedule_does_lose_the_reader_its_version() -> None:
    world = World(store=open_store("memory://", create=True))
    publish(world)
    slow = reader(world, "roller-0", 3, keeps_lease=False)
    for _ in range(4):
        next(slow)  # version 0 is found, not read
    for _ in range(5):
        publish(world)
    world.now += LEASE_S + 1
    collect(world.store, grace_s=GRACE_S, now=world.now)
    collect(world.store, grace_s=GRACE_S, now=world.now + GRACE_S)
    for _ in range(3):
        next(slow)
    assert world.refused == 1
