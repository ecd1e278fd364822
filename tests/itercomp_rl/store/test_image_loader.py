"""The loader: the same images whatever is kept, read ahead within a bound of memory."""

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.items import ImageRef
from itercomp_rl.reward.scorer import shorter_side_to
from itercomp_rl.store.image_cache import ImageCache
from itercomp_rl.store.image_loader import ImageLoader, View
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.store import Store, open_store
from itercomp_rl.store.traffic import TRAFFIC

MIB = 2**20
SMALL = View("small-16", (16, 16), lambda image: shorter_side_to(16, image))


def make_store(folder: Path, num: int = 12, sides: tuple[int, ...] = (16, 24, 40)) -> Store:
    store = open_store(folder.as_uri(), create=True, durable=False)
    rng = np.random.default_rng(0)
    for side in sides:
        store.put(IMAGES, f"m{side}", {"images": rng.integers(0, 256, (num, side, side, 3), dtype=np.uint8)}, {})
    return store


def refs_of(num: int, sides: tuple[int, ...] = (16, 24, 40), seed: int = 0, rows: int = 12) -> list[ImageRef]:
    rng = np.random.default_rng(seed)
    return [ImageRef(segment=f"m{rng.choice(sides)}", row=int(rng.integers(rows))) for _ in range(num)]


def loaders(store: Store, folder: Path) -> list[ImageLoader]:
    """Without a cache, with a new one, with that one filled, with one that is full, and with little memory."""
    kept = ImageCache(folder / "kept", 64 * MIB)
    return [
        ImageLoader(store),
        ImageLoader(store, kept),
        ImageLoader(store, kept),
        ImageLoader(store, ImageCache(folder / "full", 1)),
        ImageLoader(store, kept, memory_mib=0),
    ]


@pytest.mark.parametrize("view", [None, SMALL])
def test_what_is_kept_changes_no_bit(tmp_path: Path, view: View | None) -> None:
    store, reader = make_store(tmp_path / "store"), ImageReader(make_store(tmp_path / "store"))
    batches = [refs_of(9, seed=seed) for seed in range(6)] + [[]]
    for loader in loaders(store, tmp_path):
        for refs, images in zip(batches, loader.stream(batches, view), strict=True):
            for pixels, image in zip(reader.load_each(refs), images, strict=True):
                np.testing.assert_array_equal(image, view(pixels) if view else pixels)


def test_a_view_rounds_as_bytes_and_leaves_its_own_size_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    seen = SMALL(image)
    exact = shorter_side_to(16, torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255)[0].permute(1, 2, 0)
    assert seen.shape == (16, 16, 3)
    assert np.abs(seen - exact.clamp(0, 1).numpy() * 255).max() <= 0.501
    assert SMALL(seen) is seen


def test_an_image_is_read_from_the_store_once_for_all_processes_of_a_node(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    everything = [ImageRef(segment=f"m{side}", row=row) for side in (16, 24, 40) for row in range(12)]
    read = []
    for _ in range(3):  # a loader each, as processes have
        before = TRAFFIC.bytes["read"]
        ImageLoader(store, ImageCache(tmp_path / "kept", 64 * MIB)).load(everything, SMALL)
        read.append(TRAFFIC.bytes["read"] - before)
    indexes = 3 * (12 * 16 + 4)
    assert read == [12 * sum(side * side * 3 + 4 for side in (16, 24, 40)) + indexes, indexes, indexes]


def test_a_damaged_image_ends_the_stream_by_name(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    (commit,) = store.commits(IMAGES, "m24")
    (key,) = [key for key in store.backend.sizes(f"{commit.data}/images") if "/c" in key]
    data = bytearray(store.backend.read(key) or b"")
    data[5] ^= 1
    store.backend.write(key, bytes(data))
    stream = ImageLoader(store).stream([[ImageRef(segment="m24", row=1)], [ImageRef(segment="m24", row=0)]], SMALL)
    assert len(next(stream)) == 1
    with pytest.raises(CorruptRecordError, match="image 0"):
        next(stream)


def test_a_stream_that_is_left_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    stream = ImageLoader(make_store(tmp_path / "store")).stream([refs_of(4, seed=seed) for seed in range(50)], SMALL)
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("view", [None, SMALL])
def test_memory_is_bounded_however_much_is_read(tmp_path: Path, view: View | None) -> None:
    sides, num = (512,), 40
    store = make_store(tmp_path / "store", num, sides)  # 30 MiB of pixels
    # Every image ten times, in batches of 8 that take 6 MiB as drawn: 300 MiB in all.
    batches = [refs_of(8, sides, seed, num) for seed in range(50)]
    loader = ImageLoader(store, ImageCache(tmp_path / "kept", 64 * MIB), memory_mib=16)
    tracemalloc.start()
    try:
        for images in loader.stream(batches, view):
            assert len(images) == 8
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB + 2 * 6 * MIB  # the batch in use is held while the next one is handed over
