"""What is collected, what never is, and what a check of everything finds."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli.store import summary
from itercomp_rl.errors import CorruptRecordError, InvalidNameError
from itercomp_rl.store import weights
from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S, attempt_name, record_place, seal, version_place
from itercomp_rl.store.live_weights import collect_run
from itercomp_rl.store.packs import compact, scatter
from itercomp_rl.store.retention import Lease, collect, lease, leases, release, verify
from itercomp_rl.store.store import Store, open_store

NOW = 1.8e9
DAY = 86400.0


def at(store: Store, time_s: float) -> Store:
    return replace(store, clock=lambda: time_s)


def publish(store: Store, *versions: int, role: str = "policy", base: int | None = None) -> None:
    for version in versions:
        weights.publish(store, role, version, {"w": torch.full((8,), float(version))}, {"base_version": base})


def data_versions(store: Store, role: str = "policy") -> set[int]:
    return {int(key.split("/")[2][1:9]) for key in store.backend.sizes(f"weights/{role}")}


def abandon(store: Store, id_: str) -> None:
    """Data whose writer died just before its marker."""
    commit = store.put("images", id_, {"images": np.zeros((1, 2, 2, 3), np.uint8)}, {})
    store.backend.delete(commit.marker)


def test_old_versions_go_marker_first_and_data_after_the_grace_period(store: Store) -> None:
    publish(at(store, NOW), *range(7))
    first = collect(store, grace_s=60, now=NOW)
    assert first.retired == [("policy", 0), ("policy", 1), ("policy", 2)]
    assert first.deleted == []
    assert weights.versions(store, "policy") == [3, 4, 5, 6]
    assert data_versions(store) == set(range(7))  # a reader that has read a marker can finish
    assert verify(store) == []
    assert collect(store, grace_s=60, now=NOW + 59) == replace(first, retired=[])
    assert len(collect(store, grace_s=60, now=NOW + 60).deleted) == 3
    assert data_versions(store) == {3, 4, 5, 6}
    assert store.backend.sizes("retired") == {}
    assert collect(store, grace_s=60, now=NOW + 1e6) == replace(first, retired=[])
    assert verify(store) == []


def test_each_role_keeps_its_own_newest(store: Store) -> None:
    publish(store, 1, 2, 3, 4, 5, 6)
    publish(store, 1, 2, 3, role="reward-aesthetic")
    assert collect(store, grace_s=0, now=NOW, keep_versions=5).retired == [("policy", 1)]
    assert weights.versions(store, "reward-aesthetic") == [1, 2, 3]


def test_leased_and_kept_versions_stay(store: Store) -> None:
    publish(store, *range(8))
    lease(store, Lease(reader="roller-1", role="policy", version=0, expires_s=NOW + 10))
    lease(store, Lease(reader="roller-2", role="policy", version=1, expires_s=NOW - 10))
    lease(store, Lease(reader="roller-3", role="reward", version=3, expires_s=NOW + 10))
    collect(store, grace_s=0, now=NOW, keep={("policy", 2)})
    assert weights.versions(store, "policy") == [0, 2, 4, 5, 6, 7]
    assert data_versions(store) == {0, 2, 4, 5, 6, 7}
    collect(store, grace_s=0, now=NOW + 10)
    assert weights.versions(store, "policy") == [4, 5, 6, 7]


def test_a_lease_taken_on_a_retired_version_holds_its_data(store: Store) -> None:
    publish(store, *range(5))
    collect(store, grace_s=60, now=NOW)
    lease(store, Lease(reader="slow", role="policy", version=0, expires_s=NOW + 1000))
    assert collect(store, grace_s=60, now=NOW + 100).deleted == []
    release(store, "slow")
    assert len(collect(store, grace_s=60, now=NOW + 100).deleted) == 1


def test_a_reader_has_one_lease_which_it_renews_and_releases(store: Store) -> None:
    for version in (1, 2):
        lease(store, Lease(reader="roller-1", role="policy", version=version, expires_s=NOW))
    assert leases(store) == [Lease(reader="roller-1", role="policy", version=2, expires_s=NOW)]
    release(store, "roller-1")
    release(store, "roller-1")
    assert leases(store) == []
    with pytest.raises(InvalidNameError):
        lease(store, Lease(reader="../x", role="policy", version=1, expires_s=NOW))
    with pytest.raises(InvalidNameError):
        lease(store, Lease(reader="x", role="..", version=1, expires_s=NOW))


def test_nothing_is_deleted_while_a_lease_cannot_be_read(store: Store) -> None:
    publish(store, *range(6))
    store.backend.write("leases/roller-1.json", b'{"reader": "roller-1"')
    with pytest.raises(CorruptRecordError, match="delete it once its reader is known to be gone"):
        collect(store, grace_s=0, now=NOW)
    assert weights.versions(store, "policy") == list(range(6))


def test_what_a_kept_version_is_based_on_stays(store: Store) -> None:
    publish(store, 0, 1)
    publish(store, 2, base=0)
    publish(store, 3)
    publish(store, 4, base=2)
    publish(store, 5, 6, 7, 8)
    collect(store, grace_s=0, now=NOW, keep=[("policy", 4)])
    assert weights.versions(store, "policy") == [0, 2, 4, 5, 6, 7, 8]


@settings(max_examples=30, deadline=None)
@given(
    published=st.sets(st.integers(0, 30), max_size=12),
    leased=st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 30), st.booleans())),
    keep=st.sets(st.integers(0, 30), max_size=3),
    keep_versions=st.integers(4, 6),
)
def test_exactly_the_unwanted_versions_go(
    published: set[int], leased: dict[str, tuple[int, bool]], keep: set[int], keep_versions: int
) -> None:
    store = open_store("memory://", create=True)
    publish(store, *published)
    for reader, (version, is_alive) in leased.items():
        claim = Lease(reader=reader, role="policy", version=version, expires_s=NOW + (1 if is_alive else -1))
        lease(store, claim)
    collect(store, grace_s=0, now=NOW, keep_versions=keep_versions, keep={("policy", version) for version in keep})
    wanted = {version for version, is_alive in leased.values() if is_alive} | keep
    expected = set(sorted(published)[-keep_versions:]) | (published & wanted)
    assert set(weights.versions(store, "policy")) == expected == data_versions(store)
    assert verify(store) == []


def test_orphans_go_once_no_writer_can_be_at_work_on_them(store: Store) -> None:
    abandon(at(store, NOW), "a")
    at(store, NOW).put("images", "b", {"images": np.ones((1, 2, 2, 3), np.uint8)}, {})
    assert [problem.kind for problem in verify(store)] == ["orphan"]
    assert collect(store, grace_s=0, now=NOW + DAY - 1).deleted == []
    (folder,) = collect(store, grace_s=0, now=NOW + DAY).deleted
    assert folder.startswith("segments/images/a/")
    assert verify(store) == []
    assert store.get("images", "b").arrays["images"].all()


def test_a_retry_beside_its_orphan_is_kept(store: Store) -> None:
    abandon(at(store, NOW), "a")
    commit = at(store, NOW + 1).put("images", "a", {"images": np.ones((1, 2, 2, 3), np.uint8)}, {})
    (folder,) = collect(store, grace_s=0, now=NOW + 2 * DAY).deleted
    assert folder != commit.data
    assert verify(store) == []


def test_orphans_can_be_left_to_another_time(store: Store) -> None:
    abandon(at(store, NOW), "a")
    store.backend.write(f"staging/{int(NOW)}-0123456789ab", b"{")
    assert collect(store, grace_s=0, now=NOW + 9 * DAY, orphan_age_s=None).deleted == []
    assert len(store.backend.sizes("staging")) == 1
    assert len(collect(store, grace_s=0, now=NOW + 9 * DAY).deleted) == 1


@settings(max_examples=25, deadline=None)
@given(attempts=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=10))
def test_exactly_the_old_unnamed_attempts_go(attempts: list[tuple[str, int, bool]]) -> None:
    store = open_store("memory://", create=True)
    expected = []
    for id_, days, is_finished in attempts:
        began = at(store, NOW + days * DAY)
        if store.has("images", id_) or not is_finished:
            folder = f"segments/images/{id_}/{attempt_name(NOW + days * DAY)}"
            store.backend.write(f"{folder}/zarr.json", b"{}")
            expected += [folder] if days < 2 else []
        else:
            began.put("images", id_, {"images": np.ones((1, 2, 2, 3), np.uint8)}, {})
    assert collect(store, grace_s=0, now=NOW + 2.5 * DAY).deleted == sorted(expected)
    assert {problem.kind for problem in verify(store)} <= {"orphan"}


STAGED = ["", "commits/", "commits/images/", "packs/images/", "versions/policy/"]


def test_a_marker_left_half_way_to_its_name_is_no_record_and_is_swept(store: Store) -> None:
    publish(store, *range(4))
    at(store, NOW).put("images", "a", {"images": np.ones((1, 2, 2, 3), np.uint8)}, {})
    name = f"{int(NOW)}-0123456789ab"
    # Earlier software staged on a disk where object stores are tried now.
    keys = [f"staging/{name}", *(f"{folder}.{name}" for folder in STAGED if store.backend.root is not None)]
    for key in keys:
        store.backend.write(key, b"{")
    assert store.backend.staged() == sorted(keys)
    assert verify(store) == []
    assert (store.ids("images"), weights.versions(store, "policy")) == (["a"], [0, 1, 2, 3])
    collect(store, grace_s=0, now=NOW + DAY - 1)
    assert store.backend.staged() == sorted(keys)
    collect(store, grace_s=0, now=NOW + DAY)
    assert store.backend.staged() == []
    assert verify(store) == []


def test_a_collector_killed_anywhere_is_finished_by_the_next(store: Store) -> None:
    publish(store, *range(6))
    commits = [store.find(version_place("policy", version)) for version in (0, 1)]
    folders = [commit.data for commit in commits if commit and commit.data]
    for folder in folders:  # noted both, deleted one marker
        key = f"retired/{folder.removeprefix('weights/')}.json"
        store.backend.write(key, seal("note", {"retired_s": NOW}))
    store.backend.delete("versions/policy/00000000.json")
    assert verify(store) == []
    collect(store, grace_s=60, now=NOW + 100, keep={("policy", 1)})  # wanted again
    assert (weights.versions(store, "policy"), data_versions(store)) == ([1, 2, 3, 4, 5], {1, 2, 3, 4, 5})
    collect(store, grace_s=60, now=NOW + 200)
    assert data_versions(store) == {1, 2, 3, 4, 5}  # its grace period begins anew
    collect(store, grace_s=60, now=NOW + 260)
    assert (data_versions(store), store.backend.sizes("retired")) == ({2, 3, 4, 5}, {})


def test_collectors_at_once_do_not_disturb_each_other(store: Store) -> None:
    publish(store, *range(12))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: collect(store, grace_s=0, now=NOW), range(8)))
    assert (data_versions(store), store.backend.sizes("retired")) == ({8, 9, 10, 11}, {})
    assert verify(store) == []


def test_settings_that_could_take_data_in_use_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="keep_versions is 3: must be 4 or more"):
        collect(store, grace_s=0, now=NOW, keep_versions=3)
    with pytest.raises(ValueError, match="orphan_age_s is"):
        collect(store, grace_s=0, now=NOW, orphan_age_s=ATTEMPT_LIFETIME_S)


def test_nothing_is_deleted_on_the_word_of_a_damaged_marker(store: Store) -> None:
    at(store, NOW).put("images", "a", {"images": np.ones((1, 2, 2, 3), np.uint8)}, {})
    store.backend.write("commits/images/a.json", b"{}")
    assert collect(store, grace_s=0, now=NOW + 9 * DAY).deleted == []
    store.backend.write(f"segments/images/a/{int(NOW)}-0123456789ab/zarr.json", b"{}")
    with pytest.raises(CorruptRecordError):  # which of the two it names cannot be known
        collect(store, grace_s=0, now=NOW + 9 * DAY)
    store.backend.delete_folder(f"segments/images/a/{int(NOW)}-0123456789ab")
    assert [(problem.kind, problem.key) for problem in verify(store)] == [("corrupt", "commits/images/a.json")]


FOREIGN = [
    ".DS_Store",
    "commits/images/._a.json",
    "commits/images/notes.txt",
    "commits/notes.txt",
    "leases/notes.txt",
    "packs/images/copy of a pack.json",
    "packs/notes.txt",
    "retired/notes.txt",
    "segments/images/notes.txt",
    "staging/notes.txt",
    "versions/policy/7.json",
    "versions/policy/notes.txt",
    "weights/policy/notes.txt",
]


def test_foreign_files_are_reported_and_left_alone(store: Store) -> None:
    for id_ in ("a", "b", "c"):
        at(store, NOW - 2 * DAY).put("images", id_, {"images": np.ones((1, 2, 2, 3), np.uint8)}, {})
    publish(store, *range(6))
    for key in FOREIGN:
        if store.backend.root is None:
            store.backend.write(key, b"mine")
        else:
            (store.backend.root / key).parent.mkdir(parents=True, exist_ok=True)
            (store.backend.root / key).write_bytes(b"mine")
    for name in ("1.png", "2.png"):
        store.backend.write(f"pictures/{name}", b"mine")
    damaged = store.find(record_place("images", "a"))
    assert damaged
    store.backend.delete(f"{damaged.data}/images/zarr.json")

    def found() -> list[tuple[str, str]]:
        return sorted((problem.kind, problem.key) for problem in verify(store))

    strays = [("stray", key) for key in sorted([*FOREIGN, "pictures"])]
    assert found() == [("corrupt", "commits/images/a.json"), *strays]
    assert collect(store, grace_s=0, now=NOW).retired == [("policy", 0), ("policy", 1)]
    assert collect_run(store, grace_s=0, now=NOW).retired == []
    assert compact(store.backend, now=NOW) == 3
    for act in (lambda: None, lambda: scatter(store.backend, now=NOW)):
        act()
        assert found() == [("corrupt", "commits/images/a.json"), *strays]
        assert replace(store).ids("images") == ["a", "b", "c"]
        assert [commit.id for commit in replace(store).commits("images")] == ["a", "b", "c"]
        assert [marker.split("/")[-1] for marker in replace(store).markers()] == ["a.json", "b.json", "c.json"]
        assert weights.versions(store, "policy") == [2, 3, 4, 5]
        assert [line.split()[:2] for line in summary(replace(store)) if " 0 published" not in line][1:] == [
            ["segments/images", "3"],
            ["weights/policy", "4"],
        ]


def test_a_foreign_file_named_like_a_marker_is_named_by_whoever_reads_it(store: Store) -> None:
    store.put("images", "a", {}, {})
    store.backend.write("commits/images/notes.json", b"mine")
    with pytest.raises(CorruptRecordError, match=r"marker commits/images/notes\.json cannot be read"):
        store.commits("images")
    assert [(problem.kind, problem.key) for problem in verify(store)] == [("corrupt", "commits/images/notes.json")]


def test_what_a_version_is_based_on_goes_after_it_whenever_a_late_lease_comes(store: Store) -> None:
    publish(store, 0)
    publish(store, 1, base=0)
    publish(store, *range(2, 6))
    collect(store, grace_s=60, now=NOW)
    assert weights.versions(store, "policy") == [0, 2, 3, 4, 5]
    lease(store, Lease(reader="late", role="policy", version=1, expires_s=NOW + 1000))  # it found the marker before
    for later_s in (100, 200, 300):
        collect(store, grace_s=60, now=NOW + later_s)
        assert {0, 1} <= data_versions(store)
        assert weights.find(store, "policy", 0), "the reader may look for it only now"
    release(store, "late")
    for later_s in (400, 500, 600):
        collect(store, grace_s=60, now=NOW + later_s)
    assert (weights.versions(store, "policy"), data_versions(store)) == ([2, 3, 4, 5], {2, 3, 4, 5})
    assert store.backend.sizes("retired") == {}
