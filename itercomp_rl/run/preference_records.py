"""Imported preferences as records of a store: each different image once, and rankings in the form that runs write."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import ImageRef, Prompt
from itercomp_rl.prompts import prompt_id
from itercomp_rl.ranking.ranking import Places, Ranking
from itercomp_rl.ranking.records import Judged, prompt_tree
from itercomp_rl.run.preference_forms import Shown, Stated
from itercomp_rl.store.kinds import IMAGES, PREFERENCES
from itercomp_rl.store.store import Store

_SEGMENT_IMAGES, _SEGMENT_BYTES = 256, 128 * 2**20  # of one record of images
_OPEN_BYTES = 512 * 2**20  # of records that are being filled: images of one size share a record
_RECORD_RANKINGS = 500


@dataclass(kw_only=True)
class Found:
    """What an import read and wrote: Found(rankings=40, images=80, left_out=Counter({"a tie": 3}))."""

    rankings: int = 0
    images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # rankings, or rows, by reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one row states, with its images in the store."""

    stated: Stated
    refs: tuple[ImageRef, ...]


class RankingWriter:
    """Gathers rankings into records."""

    def __init__(self, store: Store, name: str, aspects: Sequence[str], found: Found) -> None:
        self._store, self._name, self._aspects, self._found = store, name, aspects, found
        self._trees: list[dict[str, Any]] = []
        self._num_records = 0

    def add(self, parts: Sequence[Part]) -> None:
        """One ranking, of one row or of several; counted as left out if fewer than two places are left."""
        shown = [(one, ref) for part in parts for one, ref in zip(part.stated.shown, part.refs, strict=True)]
        if len({one.place for one, _ in shown}) < 2:
            whole = sum(len(part.stated.shown) for part in parts) > 1
            self._found.left_out["a tie" if whole else "without two images that can be read"] += 1
            return
        stated = parts[0].stated
        aspects = (stated.aspect,) if stated.aspect is not None else tuple(self._aspects)
        prompt = Prompt(id=prompt_id(stated.prompt), text=stated.prompt, aspects=aspects)
        names = _names([one.model for one, _ in shown])
        scores = {name: one.score for name, (one, _) in zip(names, shown, strict=True) if one.score is not None}
        places = _places({name: one.place for name, (one, _) in zip(names, shown, strict=True)})
        rankings = {
            aspect: Judged(ranking=Ranking(prompt_id=prompt.id, aspect=aspect, places=places), scores=scores)
            for aspect in aspects
        }
        refs = {name: ref for name, (_, ref) in zip(names, shown, strict=True)}
        self._trees.append(prompt_tree(prompt, refs, rankings))
        self._found.rankings += len(aspects)
        if len(self._trees) == _RECORD_RANKINGS:
            self.close()

    def close(self) -> None:
        """Write what is gathered."""
        if self._trees:
            self._store.put(PREFERENCES, f"{self._name}-{self._num_records:06d}", {}, {"prompts": self._trees})
            self._num_records, self._trees = self._num_records + 1, []


def _names(models: Sequence[str]) -> list[str]:
    """A name for each image of a ranking: its model's, with a number where one model made several."""
    seen: Counter[str] = Counter()
    names = []
    for model in models:
        seen[model] += 1
        names.append(model if seen[model] == 1 else f"{model} {seen[model]}")
    return names if len(set(names)) == len(names) else [f"image {i + 1}" for i in range(len(models))]


def _places(place_of: dict[str, int]) -> Places:
    numbers = sorted(set(place_of.values()))
    return tuple(tuple(name for name, place in place_of.items() if place == number) for number in numbers)


class ImageWriter:
    """Keeps each different image once, in records of images of one size."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._refs: dict[bytes, ImageRef] = {}
        self._open: dict[tuple[int, ...], _Segment] = {}
        self._num_segments = 0

    @property
    def num(self) -> int:
        """Different images so far."""
        return len(self._refs)

    def find(self, key: bytes) -> ImageRef | None:
        """Where an image is that came before."""
        return self._refs.get(key)

    def add(self, key: bytes, pixels: NDArray[np.uint8], stated: Stated, shown: Shown) -> ImageRef:
        """Where a new image will be."""
        segment = self._open.get(pixels.shape)
        if segment is None:
            segment = self._open[pixels.shape] = _Segment(id=f"{self._name}-{self._num_segments:06d}")
            self._num_segments += 1
        ref = self._refs[key] = ImageRef(segment=segment.id, row=len(segment.images))
        segment.add(pixels, stated, shown)
        if len(segment.images) == _SEGMENT_IMAGES or segment.num_bytes >= _SEGMENT_BYTES:
            self._flush(pixels.shape)
        elif sum(one.num_bytes for one in self._open.values()) > _OPEN_BYTES:
            self._flush(max(self._open, key=lambda shape: self._open[shape].num_bytes))
        return ref

    def close(self) -> None:
        """Write what is not full."""
        for shape in list(self._open):
            self._flush(shape)

    def _flush(self, shape: tuple[int, ...]) -> None:
        segment = self._open.pop(shape)
        arrays = {"images": np.stack(segment.images), "seeds": np.array(segment.seeds, np.int64)}
        attrs = {
            "round": -1,
            "model": self._name,
            "checkpoint": "imported",
            "imported": True,
            "policy_version": None,
            "num_steps": 0,
            "guidance": 1.0,
            "prompts": segment.prompts,
            "notes": segment.notes,
        }
        self._store.put(IMAGES, segment.id, arrays, attrs)


@dataclass(kw_only=True)
class _Segment:
    """A record of images that is being filled."""

    id: str
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(image.nbytes for image in self.images[:1]) * len(self.images)

    def add(self, pixels: NDArray[np.uint8], stated: Stated, shown: Shown) -> None:
        """One more image, with what is known of it."""
        self.images.append(pixels)
        self.seeds.append(0 if shown.seed is None else shown.seed)
        self.prompts.append({"id": prompt_id(stated.prompt), "text": stated.prompt, "aspects": []})
        self.notes.append({"model": shown.model})
