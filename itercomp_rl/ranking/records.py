"""What rankings records hold, and the pairs and images that learners read from them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ImageRef, PairRef, Prompt, RankOrder
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.ranking import Ranking, is_held_out, pairs_of
from itercomp_rl.seeds import seed_of
from itercomp_rl.store.store import Store

IMAGES = "images"
RANKINGS = "rankings"
_PROMPTS, _ROLLED = "prompts", "rolled"  # kind and id: the driver may know prompts of files that no other node has


def put_prompts(store: Store, plan: Plan) -> None:
    """Commit the texts that rollouts will name, for rollers and policy learners, and digests of all prompts of the run.

    Raises: ConfigError if the run began with other prompts: images would be ranked under texts that they are not of.
    """
    held_out = [prompt for order in plan.evaluation_orders(plan.policy(-1)) for prompt in order.prompts]
    attrs = {
        "texts": list(plan.rolled_prompts),
        "train": _digest([*plan.gallery_prompts, *plan.policy_prompts]),
        "test": _digest(held_out),
    }
    began, config = store.put(_PROMPTS, _ROLLED, {}, attrs).attrs, plan.config.prompts
    for name, value in attrs.items():  # a run of earlier software may have noted its texts alone
        if began.get(name, value) == value:
            continue
        key = "prompts.test_file" if name == "test" else "prompts.train_file"
        what, way_out = f"{key} {getattr(config, key.split('.')[1])!r} no longer gives", "give it the old file"
        if config.source == "shapes":
            what, way_out = "this software's embedded world does not give", "go on with the version that began it"
        raise ConfigError(
            f"{what} the prompts that this run began with ({store.url}): {way_out}, or start a new run under another "
            "run.name"
        )


def _digest(prompts: Sequence[Prompt]) -> str:
    rows = json.dumps([[prompt.text, prompt.aspects] for prompt in prompts])
    return hashlib.sha256(rows.encode()).hexdigest()


def load_rolled_prompts(store: Store) -> list[str]:
    """The texts that rollouts will name. Raises: MissingRecordError."""
    return store.get(_PROMPTS, _ROLLED).attrs["texts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One aspect's ranking of a prompt's images, and the scores of those models that the first judge scored.

    Newcomers that a reward model placed have none: its scale is not the judge's.
    """

    ranking: Ranking
    scores: Mapping[str, float]


def rankings_attrs(order: RankOrder, rankings: Sequence[Mapping[str, Judged]]) -> dict[str, Any]:
    """The document of a rankings record: per prompt its images and one ranking per aspect."""
    return {
        "round": order.round,
        "reward_version": order.reward_version,
        "prompts": [
            {
                "prompt": asdict(prompt),
                "images": {model: [ref.segment, ref.row] for model, ref in images.items()},
                "rankings": {
                    aspect: {"places": judged.ranking.places, "scores": dict(judged.scores)}
                    for aspect, judged in by_aspect.items()
                },
            }
            for prompt, images, by_aspect in zip(order.prompts, order.images, rankings, strict=True)
        ],
    }


def prompt_of(tree: Mapping[str, Any]) -> Prompt:
    """A Prompt from its JSON form."""
    return Prompt(id=tree["id"], text=tree["text"], aspects=tuple(tree["aspects"]))


def load_rankings(store: Store, id_: str) -> list[tuple[Prompt, dict[str, ImageRef], dict[str, Judged]]]:
    """Every prompt of a rankings record with its images and rankings."""
    found = []
    for entry in store.get(RANKINGS, id_).attrs["prompts"]:
        prompt = prompt_of(entry["prompt"])
        images = {model: ImageRef(segment=segment, row=row) for model, (segment, row) in entry["images"].items()}
        rankings = {
            aspect: Judged(
                ranking=Ranking(
                    prompt_id=prompt.id, aspect=aspect, places=tuple(tuple(place) for place in judged["places"])
                ),
                scores=judged["scores"],
            )
            for aspect, judged in entry["rankings"].items()
        }
        found.append((prompt, images, rankings))
    return found


def load_pairs(
    store: Store, ids: Sequence[str], aspect: str, *, margin: float, flip: float, held_out: float, seed: int
) -> tuple[list[PairRef], list[PairRef]]:
    """The pairs of one aspect from rankings records: (to learn from, held out), split by prompt.

    margin: two images that the judge scored and whose scores differ by no more make no pair. flip: share of pairs to
    learn from that are turned round, by a draw fixed per pair, as people disagree; held-out pairs stay as judged.
    """
    train: list[PairRef] = []
    kept: list[PairRef] = []
    for id_ in ids:
        for prompt, images, rankings in load_rankings(store, id_):
            if aspect not in rankings:
                continue
            is_kept = is_held_out(prompt.id, held_out, seed)
            for winner, loser in _models(rankings[aspect], margin):
                drawn = np.random.default_rng(seed_of(seed, "flip", aspect, prompt.id, winner, loser)).random()
                if not is_kept and drawn < flip:
                    winner, loser = loser, winner
                (kept if is_kept else train).append(PairRef(prompt=prompt, winner=images[winner], loser=images[loser]))
    return train, kept


def weighted(origins: Sequence[tuple[Sequence[PairRef], float]]) -> list[PairRef]:
    """Pairs of several origins with each origin's weight; those of weight 0 are left out."""
    return [replace(pair, weight=weight) for pairs, weight in origins if weight > 0 for pair in pairs]


def draw_rows(pairs: Sequence[PairRef], num: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of `num` pairs, drawn with replacement, each with a chance in proportion to its weight."""
    weights = np.array([pair.weight for pair in pairs])
    if (weights == weights[0]).all():
        return rng.integers(len(pairs), size=num)
    return rng.choice(len(pairs), size=num, p=weights / weights.sum())


def _models(judged: Judged, margin: float) -> Iterator[tuple[str, str]]:
    scores = judged.scores
    for pair in pairs_of(judged.ranking):
        both = pair.winner in scores and pair.loser in scores
        if not both or scores[pair.winner] - scores[pair.loser] > margin:
            yield pair.winner, pair.loser


class ImageReader:
    """Images of the store by reference; each segment is read and verified once, the latest are kept."""

    def __init__(self, store: Store, kept_mib: int = 512) -> None:
        self._store = store
        self._kept_bytes = kept_mib * 2**20
        self._segments: dict[str, NDArray[np.uint8]] = {}
        self._set_aside: dict[str, frozenset[int]] = {}

    def is_drawn(self, ref: ImageRef) -> bool:
        """Whether there is such an image: False where the row was set aside, as no sampler survived it."""
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
