"""Frozen rewards: fixed scorers that the policy climbs beside the reward models of its own run.

Each is standardised by the scores of the round's gallery, as learned rewards are by those of held-out images, so that
`policy.target` means the same for all: so many standard deviations above the gallery's mean.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itercomp_rl.config.scorer_names import PYTHON, parse_scorer
from itercomp_rl.errors import ConfigError, DivergedError
from itercomp_rl.reward.custom import CustomScorer, checked_scores, find_custom, score_custom
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.published import load_any_reward, score_any_size
from itercomp_rl.reward.scorer import Scorer
from itercomp_rl.store.image_loader import View

CALIBRATION_IMAGES = 256  # of the gallery, at most; their mean is known to a sixteenth of a standard deviation
SCORED_AT_ONCE = 16


class FrozenReward:
    """One fixed scorer, differentiable in the image; its weights do not learn."""

    def __init__(self, key: str, source: str, device: torch.device) -> None:
        """key: the setting that names it. Raises: ConfigError for one without gradient; CheckpointError."""
        self._source, self._device = source, device
        name = parse_scorer(source)
        self._custom: CustomScorer | None = None
        self._model: Scorer | None = None
        if name.kind == PYTHON:
            self._custom = open_differentiable(key, source, device)
        else:
            self._model = load_any_reward(source).to(device).eval().requires_grad_(False)
        self.mean, self.std = 0.0, 1.0

    def prepared(self, prompts: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """Return a function that scores images [B,3,H,W] in 0..1 under these prompts.

        Its scores are standardised, float32 [B], and differentiable in the images.
        """
        if (model := self._model) is not None:
            text = model.tokenize(prompts)
            return lambda images: self._standardised(model.score(images, *text))
        custom = self._custom
        assert custom is not None
        return lambda images: self._standardised(checked_scores(custom, self._source, images, prompts))

    @property
    def view(self) -> View | None:
        """How it takes images; None: as they were drawn."""
        return self._model.view if self._model is not None else None

    def calibrate(self, batches: Iterable[tuple[Sequence[NDArray[np.uint8]], Sequence[str]]]) -> None:
        """Take mean and standard deviation, the units from then on, from scores of images [H, W, 3] under prompts.

        Raises: DivergedError if the scores do not differ or are not finite.
        """
        scores = [score for images, prompts in batches for score in self._raw(images, prompts)]
        if len(scores) > 1:
            self.mean, self.std = float(np.mean(scores)), float(np.std(scores, ddof=1))
        else:
            self.mean, self.std = sum(scores), 0.0
        if not (np.isfinite(self.std) and self.std > 0):
            raise DivergedError(
                f"{self._source} gives {len(scores)} gallery images a mean of {self.mean:g} with a standard deviation "
                f"of {self.std:g}: a frozen reward must tell them apart; take it out of policy.frozen_rewards"
            )

    def _raw(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float]:
        if self._model is not None:
            found = score_any_size(RewardEnsemble({"frozen": self._model}), images, prompts)
            return [score["frozen"] for score in found]
        assert self._custom is not None
        return score_custom(self._custom, self._source, images, prompts, self._device)

    def _standardised(self, score_B: Tensor) -> Tensor:
        return (score_B.float() - self.mean) / self.std


@dataclass(frozen=True, kw_only=True)
class FrozenRewards:
    """The frozen terms of a policy's loss, by name."""

    rewards: Mapping[str, FrozenReward]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms, in the order given."""
        return tuple(self.rewards)

    def prepared(self, prompts: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
        """Return a function that scores images [B,3,H,W] in 0..1 under these prompts by every term.

        It returns the standardised scores [B] of each term by name.
        """
        by_name = {name: reward.prepared(prompts) for name, reward in self.rewards.items()}
        return lambda images: {name: score(images) for name, score in by_name.items()}


def open_differentiable(key: str, source: str, device: torch.device) -> CustomScorer:
    """A class of the user's own that a policy can climb. Raises: ConfigError, naming `key`, if it cannot."""
    kind = find_custom(key, parse_scorer(source).checkpoint)
    check_differentiable(key, source, kind)
    return kind(device)


def check_differentiable(key: str, source: str, kind: type[CustomScorer]) -> None:
    """Raises: ConfigError, naming `key`, for a class that says that no gradient goes through it."""
    if not kind.differentiable:
        raise ConfigError(
            f"{key} is {source!r}, which says that it is not differentiable: the policy cannot climb it; take it as "
            "a judge (judge.reward_models) or for the evaluation (evaluation.reward_models)"
        )
