"""The contract of every store kind."""

from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from zarr.storage import ObjectStore

from itercomp_rl.errors import CorruptRecordError, InvalidNameError, MissingRecordError, StoreError
from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S, record_place
from itercomp_rl.store.retention import verify
from itercomp_rl.store.store import Store, open_store

DTYPES = st.sampled_from(["bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i4", ">f8"])
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))


def images(seed: int, count: int = 3) -> np.ndarray:
    """[count, 8, 6, 3] u1"""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)


def keys(store: Store) -> list[str]:
    return [key for top in ("segments", "commits", "staging", "weights") for key in store.backend.sizes(top)]


def test_a_record_comes_back_as_it_went_in(store: Store) -> None:
    arrays = {
        "images": images(0),
        "seeds": np.arange(3),
        "scale": np.float32(7.5).reshape(()),
        "none": np.zeros((0, 2)),
    }
    commit = store.put("images", "r0001-sdxl-p0000", arrays, {"round": 1, "models": ["a", "b"], "cfg": {"x": None}})
    record = store.get("images", "r0001-sdxl-p0000")
    assert record.attrs == {"round": 1, "models": ["a", "b"], "cfg": {"x": None}} == commit.attrs
    assert record.arrays.keys() == arrays.keys() == commit.arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(record.arrays[name], array)
        assert record.arrays[name].dtype == array.dtype == commit.arrays[name].dtype
        assert record.arrays[name].shape == array.shape == commit.arrays[name].shape
    assert commit.id == "r0001-sdxl-p0000"
    assert {"itercomp-rl", "code", "zarr", "numpy", "python"} == commit.software.keys()
    assert ":" in commit.writer
    assert verify(store) == []


def test_a_record_of_another_store_is_copied_whole_with_its_writer_and_the_time_of_the_copy(store: Store) -> None:
    source = open_store("memory://", create=True)
    replace(source, clock=lambda: 1e9).put("images", "a", {"images": images(0), "seeds": np.arange(3)}, {"round": 1})
    place = record_place("images", "a")
    assert not store.copy(source, record_place("images", "b"))
    assert store.copy(source, place)
    assert not store.copy(source, place)
    copied, original = store.find(place), source.find(place)
    assert copied
    assert original
    assert copied.data != original.data
    assert copied.time_s > original.time_s + 1e6
    assert replace(copied, data=None, time_s=1e9) == replace(original, data=None)
    for name, array in source.get("images", "a").arrays.items():
        np.testing.assert_array_equal(store.get("images", "a").arrays[name], array)
    assert verify(store) == []


def test_a_damaged_record_is_not_copied(store: Store) -> None:
    source = open_store("memory://", create=True)
    commit = source.put("images", "a", {"images": images(0)}, {})
    (key,) = [key for key in source.backend.sizes(f"{commit.data}/images") if "/c" in key]
    data = bytearray(source.backend.read(key) or b"")
    data[3] ^= 1
    source.backend.delete(key)
    source.backend.write_new(key, [bytes(data)])
    with pytest.raises(CorruptRecordError):
        store.copy(source, record_place("images", "a"))
    assert keys(store) == []


@given(array=ARRAYS)
@settings(max_examples=60, deadline=None)
def test_any_numbers_of_any_shape_come_back_bit_for_bit(array: np.ndarray) -> None:
    store = open_store("memory://", create=True)
    store.put("k", "id", {"a": array}, {})
    read = store.get("k", "id").arrays["a"]
    assert (read.shape, read.dtype) == (array.shape, array.dtype.newbyteorder("<"))
    assert read.tobytes() == array.astype(read.dtype).tobytes()


def test_a_record_of_attrs_alone_is_one_marker(store: Store) -> None:
    commit = store.put("phases", "r0001-sampled", {}, {"groups": 12})
    assert commit.data is None
    assert store.get("phases", "r0001-sampled").attrs == {"groups": 12}
    assert keys(store) == ["commits/phases/r0001-sampled.json"]


def test_a_second_put_of_an_id_writes_nothing_and_returns_the_first(store: Store) -> None:
    first = store.put("images", "a", {"images": images(0)}, {"round": 1})
    before = keys(store)
    assert store.put("images", "a", {"images": images(1)}, {"round": 2}) == first
    assert keys(store) == before
    np.testing.assert_array_equal(store.get("images", "a").arrays["images"], images(0))


def test_only_what_was_asked_for_is_read(store: Store) -> None:
    commit = store.put("images", "a", {"images": images(0), "seeds": np.arange(3)}, {"round": 1})
    for key in store.backend.sizes(f"{commit.data}/images"):
        store.backend.delete(key)
    assert list(store.get("images", "a", ["seeds"]).arrays) == ["seeds"]
    assert store.get("images", "a", []).arrays == {}
    with pytest.raises(CorruptRecordError):
        store.get("images", "a")


def test_what_is_not_there_is_named(store: Store) -> None:
    store.put("images", "a", {"images": images(0)}, {})
    with pytest.raises(MissingRecordError, match=r"holds no commits/images/b\.json"):
        store.get("images", "b")
    with pytest.raises(LookupError, match=r"no array 'seeds', but \['images'\]"):
        store.get("images", "a", ["seeds"])
    assert [store.has("images", "a"), store.has("images", "b"), store.has("rankings", "a")] == [True, False, False]


def test_rows_are_the_rows_of_the_whole(store: Store) -> None:
    arrays = {"images": images(0, count=5), "pairs": np.arange(10).reshape(5, 2)}
    store.put("images", "a", arrays, {})
    for name, array in arrays.items():
        for rows in (slice(0, 1), slice(2, 4), slice(-2, None), slice(0, 5, 2), slice(3, 3)):
            np.testing.assert_array_equal(store.get_rows("images", "a", name, rows), array[rows])


def test_ids_are_sorted_and_filtered_by_their_beginning(store: Store) -> None:
    for id_ in ("r2-b", "r1-b", "r10-a", "r1-a"):
        store.put("rankings", id_, {}, {"id": id_})
    store.put("rankings2", "r1-c", {}, {})
    assert store.ids("rankings") == ["r1-a", "r1-b", "r10-a", "r2-b"]
    assert store.ids("rankings", "r1-") == ["r1-a", "r1-b"]
    assert [commit.attrs["id"] for commit in store.commits("rankings", "r1")] == ["r1-a", "r1-b", "r10-a"]
    assert store.ids("pairs") == [] == store.commits("pairs")


def test_ids_after_one_are_those_that_sort_after_it(store: Store) -> None:
    ids = ["a", "a-b", "a.b", "a0", "b"]
    for id_ in ids:
        store.put("pairs", id_, {}, {})
    for after in (*ids, "a-", "aa", "c"):
        assert store.ids("pairs", after=after) == [id_ for id_ in sorted(ids) if id_ > after]
    assert store.ids("pairs", "a", after="a-b") == ["a.b", "a0"]


@pytest.mark.parametrize(("kind", "id_", "array"), [("..", "a", "x"), ("k", "../../a", "x"), ("k", "a", "../x")])
def test_no_name_leaves_the_store(store: Store, kind: str, id_: str, array: str) -> None:
    before = keys(store)
    with pytest.raises(InvalidNameError):
        store.put(kind, id_, {array: np.zeros(1)}, {})
    assert keys(store) == before


def test_what_cannot_be_stored_leaves_nothing(store: Store) -> None:
    with pytest.raises(StoreError, match="JSON"):
        store.put("k", "a", {"x": np.zeros(3)}, {"bad": float("nan")})
    with pytest.raises(StoreError, match="dtype"):
        store.put("k", "a", {"x": np.zeros(3), "y": np.array(["text"])}, {})
    assert keys(store) == []
    store.put("k", "a", {"x": np.zeros(3)}, {})  # the id is not used up


def test_a_writer_slower_than_the_collector_may_not_publish(store: Store) -> None:
    ticks = iter([1e9, 1e9 + ATTEMPT_LIFETIME_S + 1])
    slow = replace(store, clock=lambda: next(ticks))
    with pytest.raises(StoreError, match="repeat it, with less in one record"):
        slow.put("k", "a", {"x": np.zeros(3)}, {})
    assert not store.has("k", "a")


def test_black_images_are_there_and_their_loss_is_seen(store: Store) -> None:
    black = np.zeros((3, 8, 6, 3), np.uint8)
    commit = store.put("images", "black", {"images": black, "seeds": np.zeros(3, np.int64)}, {})
    np.testing.assert_array_equal(store.get("images", "black").arrays["images"], black)
    chunks = [key for key in store.backend.sizes(f"{commit.data}") if "/c." in key]
    assert len(chunks) == 2
    for key in chunks:
        data = store.backend.read(key)
        assert data
        store.backend.delete(key)
        with pytest.raises(CorruptRecordError, match="restore it from a copy, or delete its marker"):
            store.get("images", "black")
        assert [problem.kind for problem in verify(store)] == ["corrupt"]
        store.backend.write(key, data)
    store.backend.delete(chunks[0])
    with pytest.raises(CorruptRecordError):
        store.get_rows("images", "black", "images", slice(0, 1))


def test_every_flipped_truncated_or_lost_object_is_found(store: Store) -> None:
    commit = store.put("images", "a", {"images": images(0), "seeds": np.arange(3)}, {"round": 1})
    for key in [commit.marker, *store.backend.sizes(f"{commit.data}")]:
        data = store.backend.read(key)
        assert data
        flipped = bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])
        for damaged in (flipped, data[:-1]):
            store.backend.write(key, damaged)
            assert [problem.kind for problem in verify(store)] == ["corrupt"], key
        if key != commit.marker:
            store.backend.delete(key)
            assert [problem.kind for problem in verify(store)] == ["corrupt"], key
        store.backend.write(key, data)
    assert verify(store) == []


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_refused_or_does_no_harm(place: int, bit: int) -> None:
    store = open_store("memory://", create=True)
    commit = store.put("images", "a", {"images": images(0), "seeds": np.arange(3)}, {})
    objects = {key: store.backend.read(key) or b"" for key in [commit.marker, *store.backend.sizes(f"{commit.data}")]}
    key, data = list(objects.items())[place % len(objects)]
    flipped = bytearray(data)
    flipped[(place // len(objects)) % len(data)] ^= 1 << bit
    store.backend.write(key, bytes(flipped))
    try:
        record = store.get("images", "a")
    except CorruptRecordError:
        return
    np.testing.assert_array_equal(record.arrays["images"], images(0))  # zarr.json is for others: `verify` checks it
    np.testing.assert_array_equal(record.arrays["seeds"], np.arange(3))


def test_rows_beside_a_damaged_image_stay_readable(store: Store) -> None:
    commit = store.put("images", "a", {"images": images(0)}, {})
    key = f"{commit.data}/images/c.0.0.0.0"
    data = bytearray(store.backend.read(key) or b"")
    data[5] ^= 1  # within the first image
    store.backend.write(key, bytes(data))
    with pytest.raises(CorruptRecordError, match="wrong chunk"):
        store.get_rows("images", "a", "images", slice(0, 1))
    np.testing.assert_array_equal(store.get_rows("images", "a", "images", slice(1, 3)), images(0)[1:])


def test_the_loser_of_a_race_gets_the_winners_commit(store: Store) -> None:
    moments = iter(("attempt begins", "marker is to be created"))

    def rival_wins() -> float:
        if next(moments) != "attempt begins":
            store.put("images", "a", {"images": images(1)}, {"by": "rival"})
        return 1.7e9

    commit, is_ours = replace(store, clock=rival_wins).publish(
        record_place("images", "a"), {"images": images(0)}, {"by": "late"}
    )
    assert (commit.attrs, is_ours) == ({"by": "rival"}, False)
    np.testing.assert_array_equal(store.get("images", "a").arrays["images"], images(1))
    assert [problem.kind for problem in verify(store)] == ["orphan"]


def test_another_reader_of_zarr_can_open_a_segment(store: Store) -> None:
    commit = store.put("images", "a", {"images": images(0)}, {"round": 1})
    group = zarr.open_group(ObjectStore(store.backend.objects), path=commit.data, mode="r")
    assert group.attrs["round"] == 1
    np.testing.assert_array_equal(np.asarray(group["images"]), images(0))
