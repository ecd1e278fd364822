"""Keys, chunks and markers."""

import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import CorruptRecordError, InvalidNameError, StoreError
from itercomp_rl.store.layout import (
    Commit,
    array_metadata,
    attempt_name,
    attempt_time,
    checked_name,
    decode_commit,
    encode_commit,
    encode_json,
    folder_of,
    place_of_marker,
    record_place,
    version_place,
)

NAMES = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=20).filter(
    lambda name: name[0] != "." and name != "zarr.json"
)
COMMIT = Commit(
    marker="commits/rankings/r1.json",
    data=None,
    arrays={},
    attrs={"score": 0.25},
    writer="a:1",
    time_s=1.0,
    software={},
)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "a\\b", ".hidden", "a b", "a\n", "é", "x" * 201, "a#1"]
)
def test_a_name_that_could_leave_its_place_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="no leading dot"):
        checked_name(name)
    with pytest.raises(StoreError):
        record_place("images", name)
    with pytest.raises(ValueError):
        version_place(name, 1)


@settings(max_examples=50, deadline=None)
@given(kind=NAMES, id_=NAMES, version=st.integers(0, 10**8 - 1))
def test_a_marker_names_its_place(kind: str, id_: str, version: int) -> None:
    for place in (record_place(kind, id_), version_place(kind, version)):
        assert place_of_marker(place.marker) == place


def test_a_foreign_key_is_no_marker() -> None:
    with pytest.raises(StoreError, match=r"commits/\.DS_Store is not a key this software writes"):
        place_of_marker("commits/.DS_Store")


def test_names_of_versions_sort_as_numbers() -> None:
    assert (
        version_place("policy", 9).marker < version_place("policy", 10).marker < version_place("policy", 10**7).marker
    )
    for version in (-1, 10**8):
        with pytest.raises(InvalidNameError, match="must be 0 to 99999999"):
            version_place("policy", version)


@settings(max_examples=50, deadline=None)
@given(kind=NAMES, id_=NAMES, time_s=st.integers(10**9, 4 * 10**9))
def test_the_folder_of_every_key_says_when_its_attempt_began(kind: str, id_: str, time_s: int) -> None:
    for place in (record_place(kind, id_), version_place(kind, 7)):
        folder = place.data + attempt_name(time_s)
        assert folder_of(f"{folder}/images/c.0.0.0.0") == folder_of(f"{folder}/zarr.json") == folder
        assert attempt_time(folder) == time_s
    assert attempt_time(f"staging/{attempt_name(time_s)}") == time_s


def test_a_foreign_file_belongs_to_no_attempt() -> None:
    assert folder_of("segments/images/r1/notes.txt") is None
    assert folder_of("weights/policy/v00000001/zarr.json") is None
    assert attempt_time("staging/x") is None


def test_attempts_begun_in_the_same_second_differ() -> None:
    assert len({attempt_name(1.0) for _ in range(100)}) == 100


def test_a_chunk_is_one_image_and_a_shard_all_of_them() -> None:
    metadata = array_metadata((6, 64, 48, 3), np.dtype("u1"))
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [6, 64, 48, 3]
    (codec,) = metadata["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert codec["configuration"]["chunk_shape"] == [1, 64, 48, 3]


@pytest.mark.parametrize(
    ("shape", "dtype", "chunk"),
    [
        ((), "f4", []),
        ((0,), "i8", [1]),
        ((5, 0), "i8", [5, 1]),
        ((10,), "i8", [10]),
        ((100_000_000,), "u2", [8 * 2**20]),  # 16 MiB of two bytes each
        ((100, 4, 512, 512), "f4", [4, 4, 512, 512]),  # 4 MiB a row
        ((3, 2**25), "u1", [1, 2**25]),  # a row of 32 MiB stays whole
    ],
)
def test_other_arrays_have_chunks_of_whole_rows_of_about_16_mib(
    shape: tuple[int, ...], dtype: str, chunk: list[int]
) -> None:
    metadata = array_metadata(shape, np.dtype(dtype))
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == chunk
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "crc32c"]


@pytest.mark.parametrize("dtype", ["U3", "O", "c8", "M8[s]"])
def test_a_dtype_without_plain_numbers_is_refused(dtype: str) -> None:
    with pytest.raises(StoreError, match="use bool, integers or floats"):
        array_metadata((1,), np.dtype(dtype))


def test_a_marker_says_what_its_commit_said() -> None:
    assert decode_commit(COMMIT.marker, encode_commit(COMMIT)) == COMMIT


def test_any_flipped_bit_of_a_marker_shows() -> None:
    marker = encode_commit(COMMIT)
    for place in range(len(marker)):
        for bit in (0, 5, 7):
            flipped = bytearray(marker)
            flipped[place] ^= 1 << bit
            try:
                read = decode_commit(COMMIT.marker, bytes(flipped))
            except CorruptRecordError:
                continue
            assert read == COMMIT  # such as a hex digit of another case


def test_a_marker_of_another_record_is_refused() -> None:
    with pytest.raises(CorruptRecordError, match="delete its marker"):
        decode_commit("commits/rankings/r2.json", encode_commit(COMMIT))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.int64(3), b"x", {1, 2}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(StoreError, match="cannot be stored as JSON"):
        encode_json({"value": value})
    assert json.loads(encode_json({"value": [1, 0.1, "é", None, True]})) == {"value": [1, 0.1, "é", None, True]}
