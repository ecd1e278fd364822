"""T2I-CompBench's metrics as a judge of the three aspects."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.schema import CompBenchConfig
from itercomp_rl.evaluation.t2i_compbench.geometry import RELATIONS_2D, RELATIONS_3D, relation_of
from itercomp_rl.evaluation.t2i_compbench.metrics import Metrics
from itercomp_rl.items import Prompt
from itercomp_rl.judges.scoring import Score


class CompBenchScorer:
    """attribute: BLIP-VQA; spatial: depth, 2D relation or counts, as the prompt is about; non_spatial: CLIPScore.

    A prompt without a relation or a number has no spatial score. BLIP-VQA and geometry pass at .5; CLIPScore, which
    has no such point, at .25.
    """

    def __init__(self, settings: CompBenchConfig, aspects: Sequence[str], device: torch.device) -> None:
        self._metrics, self._aspects = Metrics(settings, device), aspects

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        return [self._score(prompt, image) for prompt, image in zip(prompts, images, strict=True)]

    def _score(self, prompt: Prompt, image: NDArray[np.uint8]) -> dict[str, Score]:
        metrics = self._metrics
        chosen: dict[str, tuple[Callable[[str, NDArray[np.uint8]], float] | None, float]] = {
            "attribute": (metrics.attribute, 0.5),
            "spatial": (self._spatial(prompt.text), 0.5),
            "non_spatial": (metrics.clip, 0.25),
        }
        found = {}
        for aspect in self._aspects:
            metric, bar = chosen[aspect]
            if aspect in prompt.aspects and metric is not None:
                value = metric(prompt.text, image)
                found[aspect] = Score(value=value, passed=value >= bar)
        return found

    def _spatial(self, prompt: str) -> Callable[[str, NDArray[np.uint8]], float] | None:
        if relation_of(prompt, RELATIONS_3D):
            return self._metrics.depth
        if relation_of(prompt, RELATIONS_2D):
            return self._metrics.spatial
        wanted = self._metrics.language.counted(prompt, self._metrics.mode)
        return self._metrics.counts if any(number > 1 for number, _ in wanted) else None
