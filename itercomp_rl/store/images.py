"""Images of the store by reference, with the segments read last kept in memory."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import ImageRef
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.store import Store


class ImageReader:
    """Images of the store by reference; each segment is read and verified once, the latest are kept."""

    def __init__(self, store: Store, kept_mib: int = 512) -> None:
        self._store = store
        self._kept_bytes = kept_mib * 2**20
        self._segments: dict[str, NDArray[np.uint8]] = {}
        self._set_aside: dict[str, frozenset[int]] = {}

    def is_drawn(self, ref: ImageRef) -> bool:
        """Whether there is such an image: False where its prompt was skipped because it crashed every sampler."""
        if ref.segment not in self._set_aside:
            attrs = self._store.get(IMAGES, ref.segment, []).attrs
            self._set_aside[ref.segment] = frozenset(attrs.get("set_aside", ()))
        return ref.row not in self._set_aside[ref.segment]

    def load(self, refs: Sequence[ImageRef]) -> NDArray[np.uint8]:
        """Pixels [B, H, W, 3] of the images referred to, which must be of one size."""
        return np.stack(self.load_each(refs))

    def load_each(self, refs: Sequence[ImageRef]) -> list[NDArray[np.uint8]]:
        """Pixels [H, W, 3] of each image; a gallery's models draw at sizes of their own."""
        return [self._segment(ref.segment)[ref.row] for ref in refs]

    def _segment(self, id_: str) -> NDArray[np.uint8]:
        if id_ in self._segments:
            self._segments[id_] = self._segments.pop(id_)  # most recently used last
            return self._segments[id_]
        images = self._store.get(IMAGES, id_).arrays["images"]
        self._segments[id_] = images
        while len(self._segments) > 1 and sum(part.nbytes for part in self._segments.values()) > self._kept_bytes:
            self._segments.pop(next(iter(self._segments)))
        return images
