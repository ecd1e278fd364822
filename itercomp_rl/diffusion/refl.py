"""Reward feedback learning (ReFL): the loss that pulls images towards what the rewards prefer, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Index, Schedule
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
    for aspect, score_B in scores.items():
        pull_B = feedback.weights[aspect] * torch.relu(feedback.target_of(aspect) - score_B.float())
        # where, not a product: a score that is not finite must not reach the loss through a masked place
        total_B = total_B.to(pull_B.device) + (pull_B if mask is None else pull_B.where(mask[aspect], 0.0))
    if feedback.combine == "mean":
        num_B = torch.stack([m.float() for m in mask.values()]).sum(0) if mask else torch.tensor(float(len(scores)))
        total_B = total_B / num_B.clamp(min=1).to(total_B.device)
    return feedback.scale * total_B.mean()


def feedback_step(
    policy: Policy,
    rewards: Rewards,
    rolled: Rolled,
    feedback: Feedback,
    mask: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The half of ReFL that has a gradient: predict x0 from the mid step, decode, score, and compare with the target.

    Returns: the loss, whose backward the caller runs, and metrics (scores are means over the unmasked images).
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
    scores = rewards(policy.decode(x0))
    loss = refl_loss(scores, feedback, mask)
    metrics = {"refl_loss": loss.item(), **_score_metrics(scores, feedback, mask)}
    if not torch.isfinite(loss):
        raise DivergedError(f"the feedback loss is {loss.item()} with rewards {metrics}: lower the policy's lr")
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
