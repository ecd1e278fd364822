"""Reward feedback learning (ReFL): the loss that pulls images towards what the rewards prefer, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Index, Schedule
from itercomp_rl.diffusion.image_gradients import (
    gradient_metrics,
    image_gradients,
    is_clamped,
    loss_along,
    without_conflicts,
)
from itercomp_rl.diffusion.policy import Conditioning, Policy
from itercomp_rl.errors import DivergedError

# B images; an aspect is attribute, spatial or non_spatial, but nothing here depends on which

Rewards = Callable[[Tensor], dict[str, Tensor]]  # images [B, 3, H, W] in 0..1 -> score [B] per aspect, differentiable


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """How scores become a pull: Feedback(weights={"attribute": 1.0, "spatial": 1.0}) is the paper's setting for two."""

    weights: Mapping[str, float]
    target: float = 2.0  # standardised score at which an image is good enough
    targets: Mapping[str, float] = field(default_factory=dict)  # by aspect, where it is not `target`
    combine: Literal["sum", "mean"] = "sum"  # mean: an image's pulls are divided by the number of its prompt's aspects
    aspect_gradients: Literal["sum", "project_by_image"] = "sum"  # the latter takes conflicts out of an image's pulls
    scale: float = 1e-3
    num_grad_steps: int = 1  # 1: one-step prediction (ReFL); more: gradient through that many steps (DRaFT-K)
    guidance: float | None = None  # of the gradient's own steps, as of the rollout before them; None or 1: none

    def target_of(self, aspect: str) -> float:
        """The score at which an image is good enough in this aspect."""
        return self.targets.get(aspect, self.target)


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """Latents [B, C, H, W] stopped before step `mid`, with all that is needed to finish them."""

    latents: Tensor
    cond: Conditioning
    schedule: Schedule
    mid: Index
    generators: Sequence[torch.Generator] | None = None  # for several steps of a stochastic scheduler


def refl_loss(scores: Mapping[str, Tensor], feedback: Feedback, mask: Mapping[str, Tensor] | None = None) -> Tensor:
    """Hinge that stops pulling an image once an aspect scores its target; scalar, to be minimised.

    Args: scores [B] per aspect, exactly the aspects that have a weight; mask bool [B] per aspect, False where the
    aspect says nothing about the image's prompt.
    Returns: scale * mean over all B images of the sum (or mean, by `combine`) over the aspects of an image's prompt of
    weight * relu(target - score), in float32.
    Raises: ValueError if aspects or lengths differ, or B is 0, as a mean of nothing is nan.
    Source: IterComp (arXiv 2410.07171), multi-reward feedback learning.
    """
    if not scores or set(scores) != set(feedback.weights):
        raise ValueError(f"scores are of {sorted(scores)} and weights of {sorted(feedback.weights)}: they must match")
    if mask is not None and set(mask) != set(scores):
        raise ValueError(f"mask is of {sorted(mask)} and scores of {sorted(scores)}: they must match")
    shapes = {tuple(score.shape) for score in scores.values()} | {tuple(m.shape) for m in (mask or {}).values()}
    shape = shapes.pop()
    if shapes or len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"scores and masks have shapes {sorted({shape, *shapes})}: one [B] with B over 0 is needed")
    total_B = torch.zeros(())
    for pull_B in _pulls(scores, feedback, mask).values():
        total_B = total_B.to(pull_B.device) + pull_B
    return feedback.scale * (total_B / _divisor(scores, feedback, mask)).mean()


def aspect_losses(
    scores: Mapping[str, Tensor], feedback: Feedback, mask: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What each aspect adds to `refl_loss` of the same arguments: float32 scalars, whose sum it is."""
    divisor = _divisor(scores, feedback, mask)
    pulls = _pulls(scores, feedback, mask)
    return {aspect: feedback.scale * (pull_B / divisor).mean() for aspect, pull_B in pulls.items()}


def _pulls(scores: Mapping[str, Tensor], feedback: Feedback, mask: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """How far each image is from the target of each aspect, times its weight; [B] per aspect, 0 where masked."""
    found = {}
    for aspect, score_B in scores.items():
        pull_B = feedback.weights[aspect] * torch.relu(feedback.target_of(aspect) - score_B.float())
        # where, not a product: a score that is not finite must not reach the loss through a masked place
        found[aspect] = pull_B if mask is None else pull_B.where(mask[aspect], 0.0)
    return found


def _divisor(scores: Mapping[str, Tensor], feedback: Feedback, mask: Mapping[str, Tensor] | None) -> Tensor | float:
    """What an image's pulls are divided by: 1, or by `combine` the number of its prompt's aspects, [B]."""
    if feedback.combine == "sum":
        return 1.0
    if not mask:
        return float(len(scores))
    return torch.stack([m.float() for m in mask.values()]).sum(0).clamp(min=1)


def feedback_step(
    policy: Policy,
    rewards: Rewards,
    rolled: Rolled,
    feedback: Feedback,
    mask: Mapping[str, Tensor] | None = None,
    *,
    measures_gradients: bool = False,
    order_seed: int = 0,
) -> tuple[Tensor, dict[str, float]]:
    """The half of ReFL that has a gradient: predict x0 from the mid step, decode, score, and compare with the target.

    Args: measures_gradients: add the metrics of the aspects' gradients. order_seed: of the order in which
    `project_by_image` frees aspects of one another.
    Returns: the loss, whose backward the caller runs, and metrics (scores are means over the unmasked images). The
    value of a projected loss means nothing, only its gradient does; the metric `refl_loss` is the hinge's either way.
    Raises: DivergedError if the loss is not finite.
    """
    x0 = policy.predict_x0(
        rolled.latents,
        rolled.cond,
        rolled.schedule,
        rolled.mid,
        num_steps=feedback.num_grad_steps,
        generators=rolled.generators,
        guidance=feedback.guidance,
    )
    images = policy.decode(x0)
    scores = rewards(images)
    loss = refl_loss(scores, feedback, mask)
    metrics = {"refl_loss": loss.item(), **_score_metrics(scores, feedback, mask)}
    if not torch.isfinite(loss):
        raise DivergedError(f"the feedback loss is {loss.item()} with rewards {metrics}: lower the policy's lr")
    is_projected = feedback.aspect_gradients == "project_by_image"
    if is_projected or measures_gradients:
        gradients = image_gradients(aspect_losses(scores, feedback, mask), images)
        if measures_gradients:
            metrics |= gradient_metrics(gradients) | {"clamped_share": is_clamped(images).float().mean().item()}
        if is_projected:
            loss = loss_along(without_conflicts(gradients, order_seed), images)
    return loss, metrics


def jitter(images: Tensor, generator: torch.Generator, *, max_shift_px: int = 0, noise_std: float = 0.0) -> Tensor:
    """Images [B, 3, H, W] each moved by up to max_shift_px (edges repeated), with Gaussian noise; differentiable.

    Keeps a policy from pleasing a small reward model through single pixels. Stays within 0..1.
    """
    if max_shift_px:
        height, width = images.shape[-2:]
        padded = torch.nn.functional.pad(images, (max_shift_px,) * 4, mode="replicate")
        corners = torch.randint(0, 2 * max_shift_px + 1, (len(images), 2), generator=generator).tolist()
        images = torch.stack(
            [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
        )
    if not noise_std:
        return images
    noise = torch.randn(images.shape, generator=generator).to(images.device, images.dtype)
    return (images + noise_std * noise).clamp(0, 1)


def _score_metrics(
    scores: Mapping[str, Tensor], feedback: Feedback, mask: Mapping[str, Tensor] | None
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for aspect, score_B in scores.items():
        judged = score_B.detach() if mask is None else score_B.detach()[mask[aspect]]
        if len(judged) == 0:
            continue
        metrics[f"reward_{aspect}"] = judged.mean().item()
        metrics[f"share_below_target_{aspect}"] = (judged < feedback.target_of(aspect)).float().mean().item()
    return metrics
