"""Images of the store by reference."""

import numpy as np
import pytest

from itercomp_rl.items import ImageRef
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.store import Store, open_store


@pytest.fixture
def store() -> Store:
    """Four segments of forty images, each segment of one colour."""
    store = open_store("memory://", create=True)
    for number, name in enumerate(("a", "b", "c", "late")):
        store.put(IMAGES, name, {"images": np.full((40, 4, 4, 3), number, np.uint8)}, {})
    return store


@pytest.mark.parametrize("kept_mib", [0, 64])
def test_images_are_read_by_reference_whatever_is_kept(store: Store, kept_mib: int) -> None:
    reader = ImageReader(store, kept_mib)
    found = reader.load([ImageRef(segment=name, row=3) for name in ("c", "a", "late", "a")])
    assert found[:, 0, 0, 0].tolist() == [2, 0, 3, 0]
