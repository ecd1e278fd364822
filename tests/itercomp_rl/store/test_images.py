"""Images of the store by reference: the rows asked for, checked, in memory of their own."""

import numpy as np
import pytest

from itercomp_rl.errors import CorruptRecordError, MissingRecordError
from itercomp_rl.items import ImageRef
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.store import Store
from itercomp_rl.store.traffic import TRAFFIC

NUM, SIDE = 40, 16


def fill(store: Store) -> None:
    """Four segments of forty images, each segment of one colour, and one of another size."""
    for number, name in enumerate(("a", "b", "c", "late")):
        store.put(IMAGES, name, {"images": np.full((NUM, SIDE, SIDE, 3), number, np.uint8)}, {"set_aside": [7]})
    store.put(IMAGES, "wide", {"images": np.arange(3 * 4 * 9 * 3, dtype=np.uint8).reshape(3, 4, 9, 3)}, {})


def test_images_are_read_by_reference(store: Store) -> None:
    fill(store)
    reader = ImageReader(store)
    found = reader.load([ImageRef(segment=name, row=3) for name in ("c", "a", "late", "a")])
    assert found[:, 0, 0, 0].tolist() == [2, 0, 3, 0]
    whole = store.get(IMAGES, "wide").arrays["images"]
    np.testing.assert_array_equal(reader.read("wide", [2, 0, 2]), whole[[2, 0, 2]])
    assert [image.shape for image in reader.load_each([ImageRef(segment=name, row=0) for name in ("wide", "a")])] == [
        (4, 9, 3),
        (SIDE, SIDE, 3),
    ]
    assert [reader.is_drawn(ImageRef(segment="a", row=row)) for row in (6, 7)] == [True, False]


def test_no_more_is_read_than_the_rows_and_once_the_index_of_their_segment(store: Store) -> None:
    fill(store)
    reader = ImageReader(store)
    before = TRAFFIC.bytes["read"]
    for row in range(10):
        reader.load([ImageRef(segment="a", row=row)])
    wanted = 10 * SIDE * SIDE * 3
    assert TRAFFIC.bytes["read"] - before == wanted + 10 * 4 + NUM * 16 + 4


def test_an_image_keeps_no_other_alive(store: Store) -> None:
    fill(store)
    refs = [ImageRef(segment=name, row=row) for row in range(NUM) for name in ("a", "b")]
    for image in ImageReader(store).load_each(refs):
        owner = image
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert owner.nbytes == SIDE * SIDE * 3


def test_a_damaged_image_is_refused_and_those_beside_it_are_read(store: Store) -> None:
    fill(store)
    (commit,) = store.commits(IMAGES, "wide")
    (key,) = [key for key in store.backend.sizes(f"{commit.data}/images") if "/c" in key]
    data = bytearray(store.backend.read(key) or b"")
    data[5] ^= 1  # within the first image
    store.backend.write(key, bytes(data))
    reader = ImageReader(store)
    assert reader.read("wide", [1, 2]).shape == (2, 4, 9, 3)
    with pytest.raises(CorruptRecordError, match=r"commits/images/wide\.json.*crc32c of image 0 differs.*restore it"):
        reader.read("wide", [0])
    store.backend.write(key, bytes(data[:-1]))
    with pytest.raises(CorruptRecordError, match="where its marker says|index"):
        ImageReader(store).read("wide", [1])
    store.backend.delete(key)
    with pytest.raises(CorruptRecordError, match="is missing"):
        ImageReader(store).read("wide", [1])


def test_what_is_not_there_is_named(store: Store) -> None:
    fill(store)
    reader = ImageReader(store)
    with pytest.raises(MissingRecordError, match="holds 3 images, and none at row 3"):
        reader.read("wide", [0, 3])
    with pytest.raises(MissingRecordError, match="no images d"):
        reader.load([ImageRef(segment="d", row=0)])
