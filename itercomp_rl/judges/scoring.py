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
    """How good one image is on one aspect, and whether it shows what the prompt asks for.

    passed is None where the scorer has no mark above which an image does.
    """

    value: float
    passed: bool | None


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
    """Ranks the images of each prompt."""

    num_prompts: int  # to be given at a time: one, unless the judge works faster on many

    def judge_all(
        self, prompts: Sequence[Prompt], images: Sequence[Mapping[str, NDArray[np.uint8]]]
    ) -> list[dict[str, Judged]]:
        """Of every prompt one ranking per aspect that it can judge; `images` [H, W, 3] of each prompt, by model."""
        ...

    def judge(self, prompt: Prompt, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Judged]:
        """As judge_all, of one prompt."""
        ...


class ByScore:
    """A GroupJudge that ranks by falling score; equal scores are tied.

    An image that has no score on an aspect is left out of that ranking; without two scored images there is none, unless
    the prompt has a single image.
    """

    def __init__(self, scorer: ImageScorer, num_prompts: int = 1) -> None:
        self._scorer, self.num_prompts = scorer, num_prompts

    def judge(self, prompt: Prompt, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Judged]:
        return self.judge_all([prompt], [images])[0]

    def judge_all(
        self, prompts: Sequence[Prompt], images: Sequence[Mapping[str, NDArray[np.uint8]]]
    ) -> list[dict[str, Judged]]:
        if not any(images):
            return [{} for _ in prompts]
        of_each = [prompt for prompt, own in zip(prompts, images, strict=True) for _ in own]
        scores = iter(self._scorer.score(of_each, [image for own in images for image in own.values()]))
        return [
            _judged(prompt, {model: next(scores) for model in own}) for prompt, own in zip(prompts, images, strict=True)
        ]


def _judged(prompt: Prompt, scores: Mapping[str, Mapping[str, Score]]) -> dict[str, Judged]:
    found = {}
    for aspect in prompt.aspects:
        values = {model: by_aspect[aspect].value for model, by_aspect in scores.items() if aspect in by_aspect}
        if values and len(values) >= min(2, len(scores)):
            found[aspect] = judged_by_score(prompt.id, aspect, values)
    return found


def judged_by_score(prompt_id: str, aspect: str, scores: Mapping[str, float]) -> Judged:
    """The ranking that scores give, with the scores."""
    return Judged(ranking=Ranking(prompt_id=prompt_id, aspect=aspect, places=rank_by_score(scores)), scores=scores)
