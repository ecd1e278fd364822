"""What a judge says of a probe's images: its own scores, and the rewards of the models that the policy climbs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.evaluation.probes import clipped_share, distances
from itercomp_rl.items import ProbeOrder, Prompt, RewardReport
from itercomp_rl.judges.scoring import ImageScorer, score_aspects
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.published import load_reported, score_any_size
from itercomp_rl.store.store import Store

Key: TypeAlias = tuple[tuple[str, str, int], ...]  # aspect, live role or "", version


class ProbeGrader:
    """Grades probes; it holds the reward models of the last one, which most probes of a round share."""

    def __init__(self, store: Store, trunk: str, aspects: Sequence[str], device: torch.device) -> None:
        self._store, self._trunk, self._aspects, self._device = store, trunk, aspects, device
        self._held: dict[Key, RewardEnsemble] = {}

    def unload(self) -> None:
        """Free the reward models."""
        self._held.clear()

    def grade(
        self, order: ProbeOrder, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]], scorer: ImageScorer
    ) -> dict[str, Any]:
        """The attrs of a probe's grades: a row per image [H, W, 3], and how far images of one prompt are apart."""
        used = (_key(order.rewards), _key(order.reference))
        self._held = {key: ensemble for key, ensemble in self._held.items() if key in used}
        graded = score_aspects(scorer, prompts, images, self._aspects)
        rewards, reference = (self._rewards(reports, prompts, images) for reports in (order.rewards, order.reference))
        rows = [
            {
                "prompt": prompt.id,
                "grades": {aspect: score.value for aspect, score in scores.items()},
                "rewards": climbed,
                "reference": fixed,
                "clipped": clipped_share(image),
            }
            for prompt, image, scores, climbed, fixed in zip(prompts, images, graded, rewards, reference, strict=True)
        ]
        return {
            "round": order.round,
            "update": order.update,
            "rewards": [list(one) for one in used[0]],
            "reference": [list(one) for one in used[1]],
            "rows": rows,
            "distances": [list(one) for one in distances([prompt.id for prompt in prompts], images)],
        }

    def _rewards(
        self, reports: Mapping[str, RewardReport], prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]
    ) -> list[dict[str, float]]:
        """Standardised rewards of every image on what its prompt is about."""
        if not reports or not images:
            return [{} for _ in images]
        if (key := _key(reports)) not in self._held:
            self._held[key] = load_reported(self._store, self._trunk, reports, self._device)
        scored = score_any_size(self._held[key], images, [prompt.text for prompt in prompts])
        return [
            {aspect: value for aspect, value in found.items() if aspect in prompt.aspects}
            for prompt, found in zip(prompts, scored, strict=True)
        ]


def _key(reports: Mapping[str, RewardReport]) -> Key:
    return tuple(sorted((aspect, report.live_role or "", report.version) for aspect, report in reports.items()))
