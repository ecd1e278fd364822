"""Our chunks and Zarr's are the same bytes, or at least read each other's."""

import hashlib

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from zarr.storage import ObjectStore

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store import chunks
from itercomp_rl.store.chunks import digest
from itercomp_rl.store.store import open_store

ARRAYS = npst.arrays(
    st.sampled_from(["bool", "u1", "i4", "f2", "f8"]), npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
)
IMAGES = npst.arrays("u1", st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4), st.just(3)))


@settings(max_examples=80, deadline=None)
@given(array=ARRAYS | IMAGES)
def test_zarr_reads_what_we_write(array: np.ndarray) -> None:
    store = open_store("memory://", create=True)
    commit = store.put("k", "a", {"x": array}, {})
    group = zarr.open_group(ObjectStore(store.backend.objects), path=commit.data, mode="r")
    np.testing.assert_array_equal(np.asarray(group["x"]), array)


@settings(max_examples=80, deadline=None)
@given(array=ARRAYS | IMAGES)
def test_we_read_what_zarr_writes(array: np.ndarray) -> None:
    store = open_store("memory://", create=True)
    info = store.put("k", "a", {"x": array}, {}).arrays["x"]
    if array.size:  # Zarr puts the images of a shard in an order of its own
        place = zarr.storage.StorePath(ObjectStore(store.backend.objects), "other")
        metadata: dict = info.metadata
        other = zarr.Array(
            zarr.AsyncArray(metadata=metadata, store_path=place, config={"write_empty_chunks": True})  # type: ignore[arg-type]
        )
        other[...] = array
    np.testing.assert_array_equal(chunks.read_array(store.backend, "other", info), array)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_arrays_of_several_chunks_and_pieces_come_back(rows: int, width: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as context:
        context.setattr("itercomp_rl.store.layout.CHUNK_BYTES", 16)
        context.setattr("itercomp_rl.store.chunks.CHUNK_BYTES", 16)
        array = np.random.default_rng(seed).integers(0, 2**31, (rows, width), dtype=np.int32)
        store = open_store("memory://", create=True)
        commit = store.put("k", "a", {"x": array}, {})
        np.testing.assert_array_equal(store.get("k", "a").arrays["x"], array)
        group = zarr.open_group(ObjectStore(store.backend.objects), path=commit.data, mode="r")
        np.testing.assert_array_equal(np.asarray(group["x"]), array)
        assert commit.arrays["x"].num_objects == 1 + -(-rows // (16 // (4 * width)))


def test_the_digest_of_up_to_16_mib_is_the_sha256_and_of_more_that_of_its_pieces() -> None:
    small = np.arange(10, dtype=np.uint8)
    assert digest(small) == hashlib.sha256(bytes(range(10))).hexdigest()
    large = np.arange(5 * 2**20, dtype="<u4")  # 20 MiB
    data = large.tobytes()
    parts = [hashlib.sha256(data[: 2**24]).digest(), hashlib.sha256(data[2**24 :]).digest()]
    assert digest(large) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_two_swapped_chunks_are_seen_though_each_is_whole() -> None:
    store = open_store("memory://", create=True)
    commit = store.put("k", "a", {"x": np.arange(8 * 2**20, dtype="<u4")}, {})  # two full chunks
    first, second = f"{commit.data}/x/c.0", f"{commit.data}/x/c.1"
    data = store.backend.read(first) or b"", store.backend.read(second) or b""
    store.backend.write(first, data[1])
    store.backend.write(second, data[0])
    with pytest.raises(CorruptRecordError, match="does not match its sha256"):
        store.get("k", "a")


def test_what_is_read_can_be_written_to_as_learners_do() -> None:
    store = open_store("memory://", create=True)
    store.put("k", "a", {"x": np.arange(3), "images": np.zeros((2, 4, 4, 3), np.uint8)}, {})
    for array in store.get("k", "a").arrays.values():
        array += 1
