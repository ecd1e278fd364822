"""Images as models take them, in memory-mapped files of one folder that all processes of a node share.

    <folder>/<view>/<sha256 of the segment's images>    a file per segment and view: one slot per image
    slot                                                the image [H, W, 3] u1, then its crc32c

A file's name says what its images were made of, so a slot never has to change: whoever fills it writes the same bytes.
Its checksum says whether it was filled: an empty slot, and one that a killed process, a full disk or a power cut left
half-written, has a wrong one and counts as missing. So nobody waits for anybody, and there is nothing to repair.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from itercomp_rl.files.node_folder import node_folder

log = logging.getLogger(__name__)

GIB = 2**30
IDLE_S = 600.0  # files that nobody used for so long may be deleted to make room
_MARK_S = 60.0  # how often a file that is in use says so
_SCAN_BYTES = 64 * 2**20  # the folder is measured anew after a process has written so much
_CRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class SlotFile:
    """The images of one segment under one view: SlotFile("reward-224", "9f86…", 50, (224, 224, 3))."""

    view: str
    digest: str
    num: int
    image_shape: tuple[int, int, int]

    @property
    def slot_bytes(self) -> int:
        return prod(self.image_shape) + _CRC_BYTES


class ImageCache:
    """A folder of images that were read and fitted before; what it cannot do, it leaves to the store, and says so once.

    Any number of processes and threads may use one folder. It is kept within `max_bytes`, but for what processes write
    between two measurements (64 MiB each). When it is full, files that nobody used for ten minutes go first; where
    there are none, new images are not kept, since exchanging images that are in use for others would gain nothing.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._is_broken = False
        self._is_full = False
        self._step = min(_SCAN_BYTES, max_bytes // 8)
        self._unmeasured = self._step  # bytes written since the folder was measured: the first write measures it
        self._measured_at = 0.0
        self._marked: dict[Path, float] = {}

    def read(self, file: SlotFile, rows: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        """Those of the images that are kept, by row, copied into memory of their own."""
        if self._is_broken:
            return {}
        path = self._path(file)
        try:
            with path.open("rb") as opened:
                if os.fstat(opened.fileno()).st_size != file.num * file.slot_bytes:
                    return {}  # another process has just created it
                slots = np.memmap(opened, np.uint8, "r", shape=(file.num, file.slot_bytes))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._give_up(error)
            return {}
        self._mark_used(path)
        found = {}
        for row in rows:
            slot = np.array(slots[row])
            image = slot[:-_CRC_BYTES]
            if slot[-_CRC_BYTES:].tobytes() == _crc(image):
                found[row] = image.reshape(file.image_shape)
        return found  # the mapping ends here: the pages belong to the system, and no process grows by them

    def write(self, file: SlotFile, row: int, image: NDArray[np.uint8]) -> None:
        """Keep one image, if there is room."""
        if self._is_broken or not self._has_room(file.slot_bytes):
            return
        path = self._path(file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_size != file.num * file.slot_bytes:
                    os.ftruncate(descriptor, file.num * file.slot_bytes)  # holes, which take no place on the disk
                octets = np.ascontiguousarray(image).reshape(-1)
                os.pwritev(descriptor, [octets.data, _crc(octets)], row * file.slot_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._give_up(error)

    def _path(self, file: SlotFile) -> Path:
        return self._folder / file.view / file.digest

    def _give_up(self, error: OSError) -> None:
        with self._lock:
            is_first, self._is_broken = not self._is_broken, True
        if is_first:
            log.warning(
                "images are read from the store each time, which is slower: the cache %s cannot be used (%s); free "
                "space there, let TMPDIR name another disk, or set store.image_cache_gib=0",
                self._folder,
                error,
            )

    def _mark_used(self, path: Path) -> None:
        now = time.time()
        with self._lock:
            if now - self._marked.get(path, 0.0) < _MARK_S:
                return
            self._marked[path] = now
        try:
            os.utime(path)
        except OSError:
            return  # deleted meanwhile

    def _has_room(self, num_bytes: int) -> bool:
        with self._lock:
            self._unmeasured += num_bytes
            is_due = self._unmeasured > self._step if not self._is_full else time.time() - self._measured_at > _MARK_S
            if is_due:
                self._unmeasured, self._measured_at = num_bytes, time.time()
                self._is_full = self._measure() + num_bytes > self._max_bytes
            return not self._is_full

    def _measure(self) -> int:
        """Bytes that the folder takes, once files that nobody uses were deleted where it takes too much."""
        found = []
        for path in self._folder.glob("*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_blocks * 512, path))
        total = sum(size for _, size, _ in found)
        for used_at, size, path in sorted(found):
            if total <= self._max_bytes - self._step or time.time() - used_at < IDLE_S:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


def open_cache(gib: float) -> ImageCache | None:
    """The cache of this node and user, in the folder for temporary files (TMPDIR); None where `gib` is 0."""
    if gib <= 0:
        return None
    try:
        return ImageCache(node_folder() / "images", int(gib * GIB))
    except OSError as error:
        log.warning("images are read from the store each time: the cache cannot be used (%s)", error)
        return None


def _crc(octets: NDArray[np.uint8]) -> bytes:
    return google_crc32c.extend(0, octets).to_bytes(_CRC_BYTES, "little")  # type: ignore[arg-type]  # any buffer will do
