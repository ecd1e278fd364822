"""Whatever happens to the bytes of a store, `verify` sees it."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.store import weights
from itercomp_rl.store.packs import PACKED_AFTER_S, compact
from itercomp_rl.store.retention import Lease, collect, lease, verify
from itercomp_rl.store.software import code_version
from itercomp_rl.store.store import Store, open_store


@cache
def objects() -> dict[str, bytes]:
    """Every key and its bytes of a store with one of everything that lies in one."""
    store = open_store("memory://", create=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    store.put("images", "base-00000", {"images": images, "seeds": np.arange(3)}, {"prompts": ["a caf\u00e9"]})
    store.put("rankings", "r000-00000", {}, {"round": 0})
    for id_ in ("p0", "p1"):
        replace(store, clock=lambda: 1e9).put("packed", id_, {"x": np.arange(3)}, {"rows": [0.5]})
    assert compact(store.backend, now=1e9 + PACKED_AFTER_S) == 2
    for version in range(5):
        weights.publish(store, "policy", version, {"w": torch.full((8,), float(version))}, {"round": version})
    lease(store, Lease(reader="roller-0", role="policy", version=4, expires_s=1.8e9))
    collect(store, grace_s=60, now=1.7e9)  # leaves one version's data and the note on it
    assert verify(store) == []
    tops = ("segments", "commits", "packs", "weights", "versions", "leases", "retired")
    keys = ["store.json", *(key for top in tops for key in store.backend.sizes(top))]
    return {key: store.backend.read(key) or b"" for key in keys}


def copy() -> Store:
    store = open_store("memory://", create=True)
    for key, data in objects().items():
        store.backend.write(key, data)
    return store


RETIRED = "weights/policy/v00000000-"  # no marker vouches for these bytes any more: they wait for deletion


def keys(*, but: str = RETIRED) -> st.SearchStrategy[str]:
    return st.sampled_from([key for key in objects() if not key.startswith(but)])


def test_a_copy_of_a_sound_store_is_sound() -> None:
    assert verify(copy()) == []


@settings(max_examples=300, deadline=None)
@given(key=keys(), place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(key: str, place: int, bit: int) -> None:
    store = copy()
    data = bytearray(objects()[key])
    data[place % len(data)] ^= 1 << bit
    store.backend.write(key, bytes(data))
    assert [problem.kind for problem in verify(store)].count("corrupt") == 1


@settings(max_examples=100, deadline=None)
@given(key=keys(), length=st.integers(0, 10**6))
def test_a_truncated_object_is_found(key: str, length: int) -> None:
    store = copy()
    store.backend.write(key, objects()[key][: length % len(objects()[key])])
    assert any(problem.kind == "corrupt" for problem in verify(store))


@settings(max_examples=50, deadline=None)
@given(key=keys())
def test_a_lost_object_is_found(key: str) -> None:
    store = copy()
    store.backend.delete(key)
    found = {problem.kind for problem in verify(store)}
    if key.startswith(("leases/", "retired/", "commits/rankings/")):
        assert found <= {"orphan"}  # a claim given up; data nobody deletes yet; a record of a marker alone: not there
    elif key.startswith(("commits/", "packs/", "versions/")):
        assert found == {"orphan"}
    else:
        assert found == {"corrupt"}


@settings(max_examples=50, deadline=None)
@given(kind=st.sampled_from(["images", "pairs"]), id_=st.sampled_from(["base-00000", "other"]))
def test_data_nobody_published_are_found(kind: str, id_: str) -> None:
    store = copy()
    store.backend.write(f"segments/{kind}/{id_}/1700000000-0123456789ab/images/c.0", b"x")
    store.backend.write(f"segments/{kind}/notes.txt", b"x")
    assert sorted(problem.kind for problem in verify(store)) == ["orphan", "stray"]


def test_the_code_version_changes_with_the_code_alone(tmp_path: Path) -> None:
    for package in ("actors", "itercomp_rl"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1")
    first = code_version(tmp_path)
    (tmp_path / "actors" / "notes.txt").write_text("x")
    assert code_version(tmp_path) == first
    (tmp_path / "actors" / "a.py").write_text("x = 2")
    assert code_version(tmp_path) != first
    (tmp_path / "actors" / "a.py").rename(tmp_path / "actors" / "b.py")
    assert len(code_version(tmp_path)) == 12
