"""Reward models as judges: they score images, and place newcomers in rankings that others gave."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.scorer_names import HTTP, OWN, PYTHON, parse_scorer
from itercomp_rl.items import Prompt
from itercomp_rl.judges.remote import RemoteScorer
from itercomp_rl.judges.scoring import Score
from itercomp_rl.ranking.ranking import PlacingRule, Ranking, place_newcomer
from itercomp_rl.reward.custom import find_custom, score_custom
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.published import load_any_reward, score_any_size

log = logging.getLogger(__name__)

# Scores of images [H, W, 3] under prompts; None for an image that cannot be scored.
_ScoreImages = Callable[[Sequence[NDArray[np.uint8]], Sequence[str]], Sequence[float | None]]


def place_newcomers(
    earlier: Ranking, scores: Mapping[str, float], newcomers: Sequence[str], rule: PlacingRule
) -> Ranking:
    """The earlier ranking with every newcomer in its place, best newcomer first; the given order stays undisturbed."""
    places = earlier.places
    for newcomer in sorted(newcomers, key=lambda name: -scores[name]):
        places = place_newcomer(places, scores, newcomer, rule)
    return Ranking(prompt_id=earlier.prompt_id, aspect=earlier.aspect, places=places)


class RewardScorer:
    """Fixed scorers as a ImageScorer: one per aspect, none of them learned in this run.

    The score of a reward model of this project or of ImageReward is standardised, and an image passes above 0, the mean
    of the images that its model was calibrated on. Other scorers have no such mark: their images neither pass nor fail.
    """

    def __init__(self, sources: Mapping[str, str], device: torch.device) -> None:
        kinds = {aspect: parse_scorer(source).kind for aspect, source in sources.items()}
        self._has_mark = {aspect: kind in (OWN, "imagereward") for aspect, kind in kinds.items()}
        asked = {source: aspect for aspect, source in sources.items() if kinds[aspect] in (PYTHON, HTTP)}
        opened = {source: _opened(f"the scorer of {aspect}", source, device) for source, aspect in asked.items()}
        self._asked = {aspect: opened[source] for aspect, source in sources.items() if source in opened}
        loaded = {source: load_any_reward(source) for source in dict.fromkeys(sources.values()) if source not in opened}
        for model in loaded.values():
            model.to(device).eval().requires_grad_(False)
        models = {aspect: loaded[source] for aspect, source in sources.items() if source in loaded}
        self._ensemble = RewardEnsemble(models) if models else None

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        found: list[dict[str, float]] = [{} for _ in images]
        if self._ensemble is not None:
            found = score_any_size(self._ensemble, images, [prompt.text for prompt in prompts])
        for aspect, score_images in self._asked.items():
            rows = [row for row, prompt in enumerate(prompts) if aspect in prompt.aspects]
            values = score_images([images[row] for row in rows], [prompts[row].text for row in rows])
            for row, value in zip(rows, values, strict=True):
                if value is not None:
                    found[row][aspect] = value
            if num := sum(value is None for value in values):
                log.warning("%d of %d images have no score on %s: their scorer gave none", num, len(rows), aspect)
        return [
            {
                aspect: Score(value=value, passed=value > 0 if self._has_mark[aspect] else None)
                for aspect, value in scores.items()
            }
            for scores in found
        ]


def _opened(key: str, source: str, device: torch.device) -> _ScoreImages:
    """A class of the user's own, or an address."""
    kind, checkpoint = parse_scorer(source)
    if kind == HTTP:
        return RemoteScorer(checkpoint).score_images
    custom = find_custom(key, checkpoint)(device)
    return lambda images, prompts: score_custom(custom, source, images, prompts, device)
