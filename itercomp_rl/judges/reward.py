"""Reward models as judges: they score images, and place newcomers in rankings that others gave."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.items import Prompt
from itercomp_rl.judges.scoring import Score
from itercomp_rl.ranking.ranking import PlacingRule, Ranking, place_newcomer
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.published import load_any_reward, score_any_size


def place_newcomers(
    earlier: Ranking, scores: Mapping[str, float], newcomers: Sequence[str], rule: PlacingRule
) -> Ranking:
    """The earlier ranking with every newcomer in its place, best newcomer first; the given order stays undisturbed."""
    places = earlier.places
    for newcomer in sorted(newcomers, key=lambda name: -scores[name]):
        places = place_newcomer(places, scores, newcomer, rule)
    return Ranking(prompt_id=earlier.prompt_id, aspect=earlier.aspect, places=places)


class RewardScorer:
    """Fixed reward models as a ImageScorer: one per aspect, none of them learned in this run.

    A score is a standardised reward; an image passes above 0, the mean of the images that its model was calibrated on.
    """

    def __init__(self, sources: Mapping[str, str], device: torch.device) -> None:
        loaded = {source: load_any_reward(source) for source in dict.fromkeys(sources.values())}
        for model in loaded.values():
            model.to(device).eval().requires_grad_(False)
        self._ensemble = RewardEnsemble({aspect: loaded[source] for aspect, source in sources.items()})

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        found = score_any_size(self._ensemble, images, [prompt.text for prompt in prompts])
        return [{aspect: Score(value=value, passed=value > 0) for aspect, value in scores.items()} for scores in found]
