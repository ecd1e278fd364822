"""The pairs of images that reward models learn from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.config.schema import JudgeConfig, RewardLearningConfig
from itercomp_rl.items import PairRef, Prompt
from itercomp_rl.prompts import prompt_id, same_text
from itercomp_rl.ranking.ranking import is_held_out, pairs_of
from itercomp_rl.ranking.records import Judged, load_rankings
from itercomp_rl.seeds import seed_of
from itercomp_rl.store.kinds import RANKINGS
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRules:
    """How rankings become pairs: PairRules(margin=0.05, flip=0.1, held_out=0.2, seed=0)."""

    margin: float = 0.0  # two images that the judge scored, with scores no further apart than this, make no pair
    margins: Mapping[str, float] = field(default_factory=dict)  # of aspects that have a margin of their own
    flip: float = 0.0  # share of the training pairs that are swapped, as people disagree
    held_out: float  # share of the prompts whose pairs are kept from training
    seed: int  # of the split and of the swaps

    def keeps(self, prompt: Prompt) -> bool:
        """Whether the pairs of a prompt are held out; the same for the judge's, people's, and those of near copies."""
        same = same_text(prompt.text)
        return is_held_out(prompt.id if same == prompt.text else prompt_id(same), self.held_out, self.seed)

    def swaps(self, aspect: str, prompt: Prompt, winner: str, loser: str) -> bool:
        """Whether a training pair is swapped: a draw that is fixed for each pair."""
        drawn = np.random.default_rng(seed_of(self.seed, "flip", aspect, prompt.id, winner, loser)).random()
        return drawn < self.flip


def pair_rules(judge: JudgeConfig, reward: RewardLearningConfig, seed: int) -> PairRules:
    """The rules that a config sets."""
    return PairRules(margin=judge.margin, margins=judge.margins, flip=judge.flip, held_out=reward.held_out, seed=seed)


def load_pairs(
    store: Store, ids: Sequence[str], aspect: str, rules: PairRules, kind: str = RANKINGS
) -> tuple[list[PairRef], list[PairRef]]:
    """The judge's pairs of one aspect from rankings records: (to learn from, held out), split by prompt.

    Held-out pairs are never swapped: they stay as they were judged.
    """
    train: list[PairRef] = []
    kept: list[PairRef] = []
    for id_ in ids:
        for prompt, images, rankings in load_rankings(store, id_, kind):
            if aspect not in rankings:
                continue
            is_kept = rules.keeps(prompt)
            for winner, loser in _models(rankings[aspect], rules.margins.get(aspect, rules.margin)):
                if not is_kept and rules.swaps(aspect, prompt, winner, loser):
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
