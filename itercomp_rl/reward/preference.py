"""How a reward model learns from pairs (4): what it minimises, which weights may move, and whether it has learned."""

import torch.nn.functional as F
from torch import Tensor

from itercomp_rl.errors import ConfigError
from itercomp_rl.reward.checkpoint import AnyReward, official_names
from itercomp_rl.reward.model import RewardModel


def preference_loss(winner_K: Tensor, loser_K: Tensor) -> Tensor:
    """Negative log likelihood that each winner beats its loser (Bradley-Terry), on raw rewards.

    Args: raw rewards [K], any float dtype; accumulated in float32.
    Returns: scalar mean over K, in nats; log 2 when the model cannot tell them apart.
    Raises: ValueError if K is 0, as a mean of nothing is nan, or if the shapes differ.
    Source: IterComp (arXiv 2410.07171), training of the reward models.
    """
    _check_pairs(winner_K, loser_K)
    return F.softplus(loser_K.float() - winner_K.float()).mean()


def centering_loss(winner_K: Tensor, loser_K: Tensor) -> Tensor:
    """Mean squared sum of each pair's two raw rewards: 0 where the rewards of every pair lie around 0.

    Bradley-Terry fixes the rewards of one prompt up to a constant of that prompt. A policy that climbs them towards one
    target would be pulled hardest on the prompts whose constant happens to be low.

    Args: raw rewards [K], any float dtype; accumulated in float32.
    Returns: scalar mean over K.
    Raises: as `preference_loss`.
    Source: Eisenstein et al., Helping or Herding (arXiv 2312.09244), section on underspecified reward models.
    """
    _check_pairs(winner_K, loser_K)
    return (winner_K.float() + loser_K.float()).square().mean()


def pair_accuracy(winner_K: Tensor, loser_K: Tensor) -> float:
    """Share of pairs whose winner scores strictly higher; a tie counts as wrong. Raises: as `preference_loss`."""
    _check_pairs(winner_K, loser_K)
    return float((winner_K > loser_K).float().mean())


def freeze(
    model: AnyReward, fix_rate: float, *, vision_depth: int | None = None, text_depth: int | None = None
) -> list[str]:
    """Freeze the lower `fix_rate` of a model, leave the rest trainable; returns their names (official ones).

    In each tower of BLIP everything is frozen in official order up to and including the first weight of layer
    int(depth * fix_rate): that one tensor of the layer too, and the whole tower if it has no such layer. At 0 nothing
    is. The official code counts from depths 24 and 12 whatever the model's; here they default to the model's own.
    Other models say themselves what is lower (`freeze_lower`).
    Raises: ConfigError unless 0 <= fix_rate <= 1. Source: IterComp, train/ImageReward.py.
    """
    if not 0 <= fix_rate <= 1:
        raise ConfigError(f"reward.fix_rate is {fix_rate}: must lie in 0 (train all) .. 1 (train the head only)")
    if not isinstance(model, RewardModel):
        return model.freeze_lower(fix_rate)
    vision_depth = vision_depth or len(model.vision.encoder.layers)
    text_depth = text_depth or len(model.text.encoder.layer)
    ours_of = official_names(model.config)
    frozen: list[str] = []
    if fix_rate > 0:
        frozen += _up_to(ours_of, "blip.visual_encoder.", f"blocks.{int(vision_depth * fix_rate)}.")
        frozen += _up_to(ours_of, "blip.text_encoder.", f"layer.{int(text_depth * fix_rate)}.")
    model.requires_grad_(True)
    for name in frozen:
        model.get_parameter(ours_of[name]).requires_grad_(False)
    return frozen


def _up_to(names: dict[str, str], tower: str, layer: str) -> list[str]:
    tower_names = [name for name in names if name.startswith(tower)]
    stop = next((i for i, name in enumerate(tower_names) if layer in name), len(tower_names) - 1)
    return tower_names[: stop + 1]


def _check_pairs(winner_K: Tensor, loser_K: Tensor) -> None:
    if winner_K.shape != loser_K.shape or winner_K.ndim != 1 or not len(winner_K):
        raise ValueError(
            f"winner and loser are {list(winner_K.shape)} and {list(loser_K.shape)}: must be [K] both, K above 0"
        )
