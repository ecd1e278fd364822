"""Packed markers: whatever is packed, when, by how many, and whoever dies of it, records stay what they were."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import CorruptRecordError, StoreError
from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S, record_place
from itercomp_rl.store.packs import PACKED_AFTER_S, compact, scatter
from itercomp_rl.store.retention import collect, verify
from itercomp_rl.store.store import Store, open_store
from tests.parts.small_s3 import SmallS3

OLD = 1.7e9
NOW = OLD + PACKED_AFTER_S + 1


def put(store: Store, id_: str, time_s: float = OLD) -> None:
    arrays = {"x": np.full(3, hash(id_) % 100)} if id_ < "m" else {}
    replace(store, clock=lambda: time_s).put("k", id_, arrays, {"id": id_})


def loose(store: Store) -> list[str]:
    return [key.rsplit("/", 1)[1].removesuffix(".json") for key in store.backend.sizes("commits")]


def test_packed_records_are_found_read_listed_and_verified_as_before(store: Store) -> None:
    for id_ in ("a", "b", "y", "z"):
        put(store, id_)
    before = {id_: store.find(record_place("k", id_)) for id_ in store.ids("k")}
    reader = replace(store)  # one that knows of no pack yet
    assert compact(store.backend, now=NOW) == 4
    assert loose(store) == []
    for one in (store, reader):
        assert {id_: one.find(record_place("k", id_)) for id_ in before} == before
        assert one.has("k", "a")
        assert not one.has("k", "c")
        assert one.ids("k") == ["a", "b", "y", "z"]
        assert one.ids("k", "b", after="a") == ["b"]
        np.testing.assert_array_equal(one.get("k", "b").arrays["x"], np.full(3, hash("b") % 100))
    assert verify(store) == []
    assert compact(store.backend, now=NOW) == 0


def test_a_packed_id_is_taken(store: Store) -> None:
    put(store, "a")
    put(store, "b")
    compact(store.backend, now=NOW)
    commit, is_ours = store.publish(record_place("k", "a"), {}, {"id": "another"})
    assert (commit.attrs, is_ours) == ({"id": "a"}, False)
    assert loose(store) == []


def test_what_is_young_stays_and_so_does_one_alone(store: Store) -> None:
    for id_ in ("a", "b"):
        put(store, id_, NOW - 10)
    put(store, "old")
    assert compact(store.backend, now=NOW) == 0
    assert len(loose(store)) == 3
    with pytest.raises(ValueError, match="must be"):
        compact(store.backend, now=NOW, older_than_s=ATTEMPT_LIFETIME_S)


def test_a_writer_that_looked_before_a_record_was_there_cannot_publish_it_twice_once_it_is_packed(store: Store) -> None:
    """It looks; a rival publishes two records, which grow old and are packed; then it wakes up."""
    waking = iter((OLD, NOW))

    def clock() -> float:
        now = next(waking)
        if now == NOW:
            put(store, "y")
            put(store, "z")
            assert compact(store.backend, now=NOW) == 2
        return now

    with pytest.raises(StoreError, match="repeat it"):
        replace(store, clock=clock).put("k", "z", {}, {"id": "late"})
    assert store.get("k", "z").attrs == {"id": "z"}
    assert loose(store) == []


def test_a_copy_is_as_young_as_it_is_here(store: Store) -> None:
    """Else it could be packed while another copier of it is still at work, and be there twice."""
    source = open_store("memory://", create=True)
    for id_ in ("a", "z"):
        put(source, id_)
        assert replace(store, clock=lambda: NOW).copy(source, record_place("k", id_))
    assert compact(store.backend, now=NOW + ATTEMPT_LIFETIME_S) == 0
    assert compact(store.backend, now=NOW + PACKED_AFTER_S) == 2


def test_software_that_knows_of_no_pack_is_kept_out_of_a_store_with_packs(store: Store) -> None:
    put(store, "a")
    put(store, "b")
    schemas = []
    for act in (lambda: None, lambda: compact(store.backend, now=NOW), lambda: scatter(store.backend, now=NOW)):
        act()
        schemas.append(json.loads(store.backend.read("store.json") or b"")["schema"])
        assert open_store(store.url).ids("k") == ["a", "b"] if store.url != "memory://" else True
        assert verify(store) == []
    assert schemas == [1, 2, 1]


def test_undone_all_lie_by_themselves_again(store: Store) -> None:
    for id_ in ("a", "b", "z"):
        put(store, id_)
    before = store.backend.sizes("commits")
    compact(store.backend, now=NOW)
    assert scatter(store.backend, now=NOW) == 3
    assert store.backend.sizes("commits") == before
    assert not store.backend.sizes("packs")
    assert store.ids("k") == ["a", "b", "z"]
    assert verify(store) == []


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdefyz"), st.sampled_from([OLD, NOW])),
        st.tuples(st.sampled_from(["compact", "scatter", "reopen"]), st.just(""), st.just(NOW)),
    ),
    max_size=25,
)


@given(acts=ACTS)
@settings(max_examples=150, deadline=None)
def test_in_any_order_of_acts_a_store_holds_what_was_put_first(acts: list[tuple[str, str, float]]) -> None:
    store = open_store("memory://", create=True)
    put_at: dict[str, float] = {}
    for act, id_, time_s in acts:
        if act == "put":
            put(store, id_, time_s)
            put_at.setdefault(id_, time_s)
        elif act == "reopen":
            store = replace(store)
        else:
            {"compact": compact, "scatter": scatter}[act](store.backend, now=NOW)
            store = replace(store)
        assert store.ids("k") == sorted(put_at)
        for known, time_s in put_at.items():
            commit = store.find(record_place("k", known))
            assert commit
            assert (commit.attrs, commit.time_s) == ({"id": known}, time_s)
    assert verify(store) == []


class KilledError(Exception):
    """The compactor died."""


def killed_after(store: Store, steps: int) -> Store:
    """A store whose backend dies in the given step of those that change something."""
    left = steps

    def step(method: Callable) -> Callable:
        def counted(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return method(*arguments)

        return counted

    class Dying(type(store.backend)):
        create = step(type(store.backend).create)
        delete = step(type(store.backend).delete)

    backend = store.backend
    return Store(backend=Dying(url=backend.url, objects=backend.objects, root=backend.root, durable=backend.durable))


@pytest.mark.parametrize("act", [compact, scatter])
def test_killed_at_any_step_nothing_is_lost_and_the_next_one_completes_it(act: Callable) -> None:
    for steps in range(12):
        store = open_store("memory://", create=True)
        for id_ in ("a", "b", "y", "z"):
            put(store, id_)
        if act is scatter:
            compact(store.backend, now=NOW)
        try:
            act(killed_after(store, steps).backend, now=NOW)
            died = False
        except KilledError:
            died = True
        assert replace(store).ids("k") == ["a", "b", "y", "z"], steps
        assert verify(store) == []
        act(store.backend, now=NOW)
        assert replace(store).ids("k") == ["a", "b", "y", "z"]
        assert (loose(store) == []) == (act is compact)
        assert verify(store) == []
        if not died:
            return
    pytest.fail("it never came to its end")


def test_readers_and_writers_beside_compactors_miss_nothing(store: Store) -> None:
    ids = [f"id{number:03d}" for number in range(60)]
    for id_ in ids[:40]:
        put(store, id_)
    stop, wrong = threading.Event(), []

    def read() -> None:
        own = replace(store)
        while not stop.is_set():
            if missing := [id_ for id_ in ids[:40] if not own.has("k", id_)]:
                wrong.append(missing)
            if not set(ids[:40]) <= set(own.ids("k")):
                wrong.append(own.ids("k"))

    def write() -> None:
        own = replace(store)
        for id_ in ids[40:]:
            put(own, id_, NOW)
        for id_ in ids[:40]:  # whoever repeats a record gets the old one
            if own.put("k", id_, {}, {"id": "late"}).attrs != {"id": id_}:
                wrong.append(id_)

    readers = [threading.Thread(target=read) for _ in range(2)]
    others = [threading.Thread(target=write)]
    others += [threading.Thread(target=lambda: compact(store.backend, now=NOW)) for _ in range(2)]
    for thread in (*readers, *others):
        thread.start()
    for thread in others:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert store.ids("k") == ids
    assert verify(store) == []


def test_the_collector_keeps_the_data_of_packed_records() -> None:
    store = open_store("memory://", create=True)
    for id_ in ("a", "b"):
        put(store, id_)
    compact(store.backend, now=NOW)
    assert collect(store, grace_s=0, now=1e12).deleted == []
    assert store.get("k", "a").arrays["x"].shape == (3,)


def test_a_damaged_pack_is_named_and_nothing_is_deleted_or_believed() -> None:
    store = open_store("memory://", create=True)
    for pair in ("ab", "cd"):
        for id_ in pair:
            put(store, id_)
        compact(store.backend, now=NOW + (pair == "cd"))
    key, _ = store.backend.sizes("packs")  # that of a and b is the older one
    data = bytearray(store.backend.read(key) or b"")
    data[len(data) // 2] ^= 1
    store.backend.write(key, bytes(data))
    new = replace(store)
    assert new.get("k", "c").attrs == {"id": "c"}
    for act in (lambda: new.find(record_place("k", "a")), lambda: new.ids("k"), lambda: new.put("k", "a", {}, {})):
        with pytest.raises(CorruptRecordError, match="restore it from a copy"):
            act()
    with pytest.raises(CorruptRecordError):
        collect(new, grace_s=0, now=1e12)
    assert [problem.key for problem in verify(new)] == [key], "and no data are called orphans"
    assert new.get("k", "c").arrays["x"].shape == (3,)
    with pytest.raises(CorruptRecordError, match="restore it"):
        scatter(store.backend, now=NOW)
    assert loose(store) == ["c", "d"]
    assert list(store.backend.sizes("packs")) == [key]


def test_all_of_many_records_are_read_with_few_requests(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    for number in range(300):
        replace(store, clock=lambda: OLD).put("people", f"p{number:03d}", {}, {"number": number})
    requests = []
    for _ in range(2):
        before = s3.requests["GET"]
        assert [commit.attrs["number"] for commit in replace(store).commits("people")] == list(range(300))
        requests.append(s3.requests["GET"] - before)
        compact(store.backend, now=NOW)
    assert requests[0] >= 300
    assert requests[1] <= 5
    before = s3.requests["GET"]
    store.put("people", "p999", {}, {})
    assert (
        s3.requests["GET"] - before == 3
    )  # is it there: the marker, a list of the packs, the one that is new to this store


def test_packs_that_interleave_are_read_once(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    for turn in range(6):
        for number in range(turn, 60, 6):
            replace(store, clock=lambda: OLD).put("k", f"p{number:03d}", {}, {})
        compact(store.backend, now=NOW + turn)
    before = s3.requests["GET"]
    assert len(replace(store).commits("k")) == 60
    assert s3.requests["GET"] - before <= 6 + 2
