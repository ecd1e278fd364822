"""The pairs of images that reward models learn from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import PairRef
from itercomp_rl.ranking.ranking import is_held_out, pairs_of
from itercomp_rl.ranking.records import Judged, load_rankings
from itercomp_rl.seeds import seed_of
from itercomp_rl.store.store import Store


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
