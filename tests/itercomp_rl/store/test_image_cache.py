"""The cache of a node: what it returns was written by somebody, whole; what it cannot do, it leaves to the store."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from itercomp_rl.store import image_cache
from itercomp_rl.store.image_cache import ImageCache, SlotFile, open_cache
from tests.parts.small_disk import disk

MIB = 2**20
FILE = SlotFile("tiny-8", "ab" * 32, 6, (8, 8, 3))


def picture(row: int, shape: tuple[int, int, int] = FILE.image_shape) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, shape, dtype=np.uint8)


def test_images_come_back_in_another_process_and_those_never_written_do_not(tmp_path: Path) -> None:
    code = f"""
import numpy as np
from pathlib import Path
from itercomp_rl.store.image_cache import ImageCache, SlotFile
cache = ImageCache(Path({str(tmp_path)!r}), {MIB})
for row in (1, 4):
    image = np.random.default_rng(row).integers(0, 256, {FILE.image_shape}, dtype=np.uint8)
    cache.write(SlotFile("tiny-8", "ab" * 32, 6, (8, 8, 3)), row, image)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    found = ImageCache(tmp_path, MIB).read(FILE, range(6))
    assert sorted(found) == [1, 4]
    for row, image in found.items():
        np.testing.assert_array_equal(image, picture(row))
        assert not isinstance(image.base, np.memmap)


def test_a_black_image_is_kept_and_differs_from_none(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, MIB)
    cache.write(FILE, 2, np.zeros(FILE.image_shape, np.uint8))
    assert sorted(cache.read(FILE, range(6))) == [2]


@pytest.mark.parametrize("cut", [1, 100, FILE.slot_bytes - 1])
def test_a_slot_that_was_written_in_part_is_missing_and_can_be_written_again(tmp_path: Path, cut: int) -> None:
    cache = ImageCache(tmp_path, MIB)
    for row in range(6):
        cache.write(FILE, row, picture(row))
    path = tmp_path / FILE.view / FILE.digest
    data = bytearray(path.read_bytes())
    begin = 3 * FILE.slot_bytes
    data[begin + cut : begin + FILE.slot_bytes] = bytes(FILE.slot_bytes - cut)
    path.write_bytes(data)
    assert sorted(cache.read(FILE, range(6))) == [0, 1, 2, 4, 5]
    cache.write(FILE, 3, picture(3))
    np.testing.assert_array_equal(cache.read(FILE, [3])[3], picture(3))


def test_a_flipped_bit_is_no_image(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, MIB)
    cache.write(FILE, 0, picture(0))
    path = tmp_path / FILE.view / FILE.digest
    data = bytearray(path.read_bytes())
    data[17] ^= 4
    path.write_bytes(data)
    assert cache.read(FILE, [0]) == {}


def test_writers_of_the_same_images_at_once_all_succeed_and_readers_see_whole_ones(tmp_path: Path) -> None:
    code = f"""
import sys, numpy as np
from pathlib import Path
from itercomp_rl.store.image_cache import ImageCache, SlotFile
cache = ImageCache(Path({str(tmp_path)!r}), {8 * MIB})
for turn in range(30):
    for number in range(4):
        file = SlotFile("tiny-8", f"{{number:064d}}", 6, (8, 8, 3))
        for row in range(6):
            image = np.random.default_rng(row + 10 * number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            for kept in cache.read(file, [row]).values():
                assert np.array_equal(kept, image)
            cache.write(file, row, image)
"""
    processes = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for number in range(4):
        found = ImageCache(tmp_path, MIB).read(SlotFile("tiny-8", f"{number:064d}", 6, (8, 8, 3)), range(6))
        assert len(found) == 6


def test_a_full_cache_keeps_what_is_used_and_forgets_what_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = (128, 128, 3)  # 48 KiB
    files = [SlotFile("v", f"{number:064d}", 4, large) for number in range(20)]
    cache = ImageCache(tmp_path, MIB)

    def write_all(chosen: list[SlotFile]) -> list[int]:
        for file in chosen:
            for row in range(4):
                cache.write(file, row, picture(row, large))
        return [len(cache.read(file, range(4))) for file in chosen]

    kept = write_all(files)
    assert sum(kept) * 48 * 1024 <= 1.3 * MIB
    assert sum(kept) >= 12
    assert kept[0] == 4  # what came first is in use: it stays
    assert kept[-1] == 0
    an_hour_ago = time.time() - 3600
    for path in tmp_path.glob("*/*"):
        os.utime(path, (an_hour_ago, an_hour_ago))
    monkeypatch.setattr(image_cache, "_MARK_S", 0.0)  # the folder is measured at once, not after a minute
    assert sum(write_all(files[-2:])) == 8
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*/*")) <= 1.3 * MIB


def test_a_full_disk_is_told_once_and_leaves_the_rest_to_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk(tmp_path / "disk", "size=256k") as folder, caplog.at_level(logging.WARNING):
        cache = ImageCache(folder, 64 * MIB)
        large = SlotFile("v", "cd" * 32, 20, (128, 128, 3))
        for row in range(20):
            cache.write(large, row, picture(row, large.image_shape))
        assert cache.read(large, range(20)) == {}
    assert len(caplog.records) == 1
    assert "free space there, let TMPDIR name another disk, or set store.image_cache_gib=0" in caplog.text


def test_the_folder_of_a_node_is_its_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert open_cache(0) is None
    cache = open_cache(1)
    assert cache is not None
    folder = tmp_path / f"itercomp-rl-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    assert open_cache(1) is None
    assert "others can write to" in caplog.text
