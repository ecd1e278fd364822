"""Three aspects' rewards with their gradient to the image: frozen lower blocks run once, against three separate models.

python benchmarks/rewards.py --json rewards.json [--full]
Proportions are BLIP-large's (24 vision blocks, 12 text layers, 224 px) at a quarter of its width; --full takes all
of it, which needs 8 GiB. fix_rate is 0.7, as in the paper: 16 of the 24 vision blocks are shared.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measures import measure, write
from torch import Tensor

from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.model import RewardConfig, RewardModel, TextTokens
from itercomp_rl.reward.preference import freeze

ASPECTS = ("attribute", "spatial", "non_spatial")


def main() -> None:
    """Time both ways in turn, check that they agree, write the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    torch.manual_seed(0)
    ensemble = make_ensemble(RewardConfig() if options.full else quarter())
    image = torch.rand(options.batch, 3, 224, 224, requires_grad=True)
    texts = {aspect: tokens(options.batch) for aspect in ASPECTS}

    def shared() -> dict[str, Tensor]:
        return ensemble.score(image, texts)

    def apart() -> dict[str, Tensor]:
        return {aspect: ensemble.model(aspect).score(image, *texts[aspect]) for aspect in ASPECTS}

    seconds: dict[str, list[float]] = {"shared": [], "apart": []}
    results = {}
    for repeat in range(options.repeats + 1):
        for name, score in (("shared", shared), ("apart", apart)):
            took, results[name] = timed(score, image)
            if repeat:  # the first one warms up
                seconds[name].append(took)
    (scores, gradient), (scores_apart, gradient_apart) = results["shared"], results["apart"]
    is_equal = all(torch.equal(scores[aspect], scores_apart[aspect]) for aspect in ASPECTS)
    off = float((gradient - gradient_apart).abs().max() / gradient_apart.abs().max())
    ratio = statistics.median(a / b for a, b in zip(seconds["shared"], seconds["apart"], strict=True))
    write(
        options.json,
        [
            measure("rewards/shared over separate, forward and backward", ratio, "ratio", aim=0.65),
            measure("rewards/shared blocks", ensemble.num_shared_blocks, "of 24", better="higher"),
            measure("rewards/shared", statistics.median(seconds["shared"]), "s"),
            measure("rewards/separate", statistics.median(seconds["apart"]), "s"),
            measure("rewards/scores are bit-equal", float(is_equal), "1 = yes", aim=1.0, better="higher"),
            measure("rewards/largest difference of the image gradient", off, "of its largest", aim=1e-4),
        ],
    )


def quarter() -> RewardConfig:
    """A quarter of BLIP-large's width, all of its depth."""
    return RewardConfig(
        vision={"hidden_size": 256, "num_hidden_layers": 24, "num_attention_heads": 4, "patch_size": 16},
        text={
            "hidden_size": 192,
            "num_hidden_layers": 12,
            "num_attention_heads": 3,
            "vocab_size": 30524,
            "max_position_embeddings": 512,
        },
        mlp_init="unit_gain",
    )


def make_ensemble(config: RewardConfig) -> RewardEnsemble:
    """Three models that learned apart from one trunk, its lower blocks frozen."""
    trunk, models = RewardModel(config), {}
    for seed, aspect in enumerate(ASPECTS):
        model = copy.deepcopy(trunk)
        freeze(model, 0.7)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.01 * torch.randn(weight.shape, generator=generator)
        models[aspect] = model.eval().requires_grad_(False)
    return RewardEnsemble(models)


def tokens(batch: int) -> TextTokens:
    """Captions of 20 words in 35 places."""
    ids = torch.randint(1, 30000, (batch, 35))
    mask = (torch.arange(35) < 20).long().expand(batch, -1)
    return TextTokens(ids * mask, mask)


def timed(score: Callable[[], dict[str, Tensor]], image: Tensor) -> tuple[float, tuple[dict[str, Tensor], Tensor]]:
    """Seconds, and the rewards with the gradient of their sum."""
    began = time.perf_counter()
    rewards = score()
    (gradient,) = torch.autograd.grad(torch.stack([*rewards.values()]).sum(), image)
    return time.perf_counter() - began, (rewards, gradient)


if __name__ == "__main__":
    main()
