"""What every judge has in common: images of one prompt go in, a ranking with scores per aspect comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import Prompt
from itercomp_rl.ranking.ranking import Ranking, rank_by_score
from itercomp_rl.ranking.records import Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good one image is on one aspect, and whether it shows what the prompt asks for."""

    value: float
    passed: bool


class ImageScorer(Protocol):
    """Scores images one by one; a higher value is better, scales differ between scorers."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        """Scores by aspect of images [H, W, 3], each under the prompt at its place, without what it cannot judge."""
        ...


def score_aspects(
    scorer: ImageScorer, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]], aspects: Sequence[str]
) -> list[dict[str, Score]]:
    """Scores of images [H, W, 3] on those of `aspects` that the prompt at their place is about.

    Reward models score every image on every aspect. Whichever scorer grades, an aspect's mean is of the same prompts.
    """
    scored = scorer.score(prompts, images)
    return [
        {aspect: score for aspect, score in scores.items() if aspect in prompt.aspects and aspect in aspects}
        for prompt, scores in zip(prompts, scored, strict=True)
    ]


class GroupJudge(Protocol):
    """Ranks the images of one prompt."""

    def judge(self, prompt: Prompt, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Judged]:
        """One ranking per aspect that it can judge; `images` [H, W, 3] by model."""
        ...


class ByScore:
    """A GroupJudge that ranks by falling score; equal scores are tied."""

    def __init__(self, scorer: ImageScorer) -> None:
        self._scorer = scorer

    def judge(self, prompt: Prompt, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Judged]:
        scores = self._scorer.score([prompt] * len(images), list(images.values()))
        aspects = [aspect for aspect in prompt.aspects if all(aspect in found for found in scores)]
        return {
            aspect: judged_by_score(
                prompt.id, aspect, {model: found[aspect].value for model, found in zip(images, scores, strict=True)}
            )
            for aspect in aspects
        }


def judged_by_score(prompt_id: str, aspect: str, scores: Mapping[str, float]) -> Judged:
    """The ranking that scores give, with the scores."""
    return Judged(ranking=Ranking(prompt_id=prompt_id, aspect=aspect, places=rank_by_score(scores)), scores=scores)
