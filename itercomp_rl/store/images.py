"""Images of the store by reference: the rows that are asked for are read and checked, and nothing else is."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import MissingRecordError
from itercomp_rl.items import ImageRef
from itercomp_rl.store.chunks import Shard
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.layout import ArrayInfo, Commit, record_place
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What a reader keeps of a segment: where its images lie and which were skipped; no pixels."""

    commit: Commit  # without its attrs, which hold the text of every prompt
    shard: Shard
    info: ArrayInfo
    skipped: frozenset[int]


class ImageReader:
    """Reads images [H, W, 3] of one store. It keeps no pixels, and what it returns keeps no other image alive."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._segments: dict[str, Segment] = {}
        self._lock = threading.Lock()

    def is_drawn(self, ref: ImageRef) -> bool:
        """Whether there is such an image: False where its prompt was skipped because it crashed every sampler."""
        return ref.row not in self.segment(ref.segment).skipped

    def load(self, refs: Sequence[ImageRef]) -> NDArray[np.uint8]:
        """Pixels [B, H, W, 3] of the images referred to, which must be of one size."""
        return np.stack(self.load_each(refs))

    def load_each(self, refs: Sequence[ImageRef]) -> list[NDArray[np.uint8]]:
        """Pixels [H, W, 3] of each image; a gallery's models draw at sizes of their own."""
        return [self.read(ref.segment, [ref.row])[0] for ref in refs]

    def read(self, id_: str, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Pixels [len(rows), H, W, 3] of some images of one segment, by one request where the store allows it.

        Raises: MissingRecordError; CorruptRecordError if one of these images is damaged; StoreError.
        """
        segment = self.segment(id_)
        num = segment.info.shape[0]
        if beyond := [row for row in rows if not 0 <= row < num]:
            raise MissingRecordError(f"{segment.commit.marker} holds {num} images, and none at row {beyond[0]}")
        return self._store.read_images(segment.commit, segment.shard, rows)

    def segment(self, id_: str) -> Segment:
        """What is kept of a segment; read from the store when it is first asked for. Raises: as `read`."""
        with self._lock:
            if found := self._segments.get(id_):
                return found
        commit = self._store.find(record_place(IMAGES, id_))
        if commit is None:
            raise MissingRecordError(
                f"store {self._store.url} holds no images {id_}: nothing was published by that name"
            )
        found = Segment(
            commit=replace(commit, attrs={}),
            shard=self._store.open_shard(commit, "images"),
            info=commit.arrays["images"],
            skipped=frozenset(commit.attrs.get("set_aside", ())),
        )
        with self._lock:
            return self._segments.setdefault(id_, found)
