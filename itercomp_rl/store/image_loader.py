"""The one way in which learners and judges read images: by the row, ahead of time, each fitted for its model once.

    batches of references ──> by segment ──> kept on this node? ──yes──> image as the model takes it
                                                   │ no                          │
                                     row of the store, checked ──> view ──> kept ┘

A few threads read ahead of the consumer. Results are the same with and without a cache.
"""

# B images, H W height and width as drawn, S T height and width as a model takes them
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itercomp_rl.items import ImageRef
from itercomp_rl.store.image_cache import ImageCache, SlotFile
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.store import Store

Image = NDArray[np.uint8]  # [H, W, 3]
Rows = dict[int, Image]

_THREADS = 8  # an object store answers many requests at once
_AHEAD = 2  # batches that are read while one is used
_PIECE_BYTES = 4 * 2**20  # pixels of one request; an image that is larger makes a request of its own
_FITTING = 8  # memory that fitting an image takes, in times of its pixels: floats, and a half-scaled copy of these


@dataclass(frozen=True, slots=True)
class View:
    """An image as one kind of model takes it, as bytes: View("reward-224", (224, 224), fit).

    name: says all that decides the bytes, as images are kept under it. fit: images [1, 3, H, W] in 0..1 of any size to
    [1, 3, S, T]. An image of that size stays as it is, so a view of a view is the same.
    """

    name: str
    size: tuple[int, int]
    fit: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, image: Image) -> Image:
        """Bytes [S, T, 3], rounded; made on the CPU and one by one, so that they are always the same."""
        if image.shape[:2] == self.size:
            return image
        fitted = self.fit(torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255))
        return fitted[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


class ImageLoader:
    """Images of a store for one process. Beside the batch in use it holds at most `memory_mib`, and at least one image.

    cache: of the node, None for none. It keeps images as a view made them, never as they were drawn: the store does.
    """

    def __init__(self, store: Store, cache: ImageCache | None = None, memory_mib: float = 256) -> None:
        self._reader = ImageReader(store)
        self._cache = cache
        self._waiting_bytes = int(memory_mib * 2**20) // 2  # of batches that were read ahead
        self._working = _Budget(int(memory_mib * 2**20) // 2)  # of reading and fitting

    def is_drawn(self, ref: ImageRef) -> bool:
        """As ImageReader.is_drawn."""
        return self._reader.is_drawn(ref)

    def load(self, refs: Sequence[ImageRef], view: View | None = None) -> list[Image]:
        """One batch, as `stream` gives it."""
        (images,) = self.stream([refs], view)
        return images

    def stream(
        self, batches: Iterable[Sequence[ImageRef]], view: View | None = None
    ) -> Generator[list[Image], None, None]:
        """The images of each batch, in its order, under a view or (None) as they were drawn.

        Two batches are read ahead, fewer where they would take more than half of the memory.
        Raises: MissingRecordError, CorruptRecordError, StoreError.
        """
        waiting: deque[_Batch] = deque()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="images") as threads:
            try:
                for refs in batches:
                    waiting.append(self._begin(threads, refs, view))
                    while len(waiting) > _AHEAD or sum(batch.num_bytes for batch in waiting) > self._waiting_bytes:
                        yield waiting.popleft().images()
                while waiting:
                    yield waiting.popleft().images()
            finally:
                for batch in waiting:
                    batch.cancel()

    def _begin(self, threads: ThreadPoolExecutor, refs: Sequence[ImageRef], view: View | None) -> "_Batch":
        rows_of: dict[str, list[int]] = {}
        for ref in dict.fromkeys(refs):
            rows_of.setdefault(ref.segment, []).append(ref.row)
        pieces: dict[str, list[Future[Rows]]] = {}
        num_bytes = 0
        for segment, rows in rows_of.items():
            pixels = prod(self._reader.segment(segment).shard.image_shape)
            num_bytes += len(rows) * (prod(view.size) * 3 if view else pixels)
            step = max(1, _PIECE_BYTES // max(1, pixels))
            pieces[segment] = [
                threads.submit(self._load, segment, sorted(rows)[begin : begin + step], view)
                for begin in range(0, len(rows), step)
            ]
        return _Batch(refs=refs, pieces=pieces, num_bytes=num_bytes)

    def _load(self, segment: str, rows: Sequence[int], view: View | None) -> Rows:
        file = self._slot_file(segment, view)
        found = self._cache.read(file, rows) if self._cache and file else {}
        missing = [row for row in rows if row not in found]
        if not missing:
            return found
        size = len(missing) * prod(self._reader.segment(segment).shard.image_shape)
        with self._working.taking(size * _FITTING if view else size):
            for row, pixels in zip(missing, self._reader.read(segment, missing), strict=True):
                image = view(pixels) if view else pixels
                found[row] = pixels.copy() if image is pixels else image  # a part would keep its whole piece alive
                if self._cache and file:
                    self._cache.write(file, row, image)
        return found

    def _slot_file(self, segment: str, view: View | None) -> SlotFile | None:
        if view is None:
            return None
        info = self._reader.segment(segment).info
        # The kernels that fit an image belong to torch: another version may round otherwise.
        name = f"{view.name}-torch{torch.__version__}"
        return SlotFile(name, info.sha256, info.shape[0], (*view.size, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """A batch on its way: its pieces by segment, and the bytes that they will take."""

    refs: Sequence[ImageRef]
    pieces: dict[str, list[Future[Rows]]]
    num_bytes: int

    def images(self) -> list[Image]:
        found = {
            segment: {row: image for piece in pieces for row, image in piece.result().items()}
            for segment, pieces in self.pieces.items()
        }
        return [found[ref.segment][ref.row] for ref in self.refs]

    def cancel(self) -> None:
        for pieces in self.pieces.values():
            for piece in pieces:
                piece.cancel()


class _Budget:
    """Bytes that threads share; one that needs more than there are takes all of them, alone."""

    def __init__(self, num_bytes: int) -> None:
        self._all = self._free = num_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, num_bytes: int) -> Iterator[None]:
        """Holds so many bytes, once they are free."""
        taken = min(num_bytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()
