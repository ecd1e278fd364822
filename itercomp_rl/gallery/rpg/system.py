"""RPG: a planner cuts the picture into regions, and each region listens to a prompt of its own."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from itercomp_rl.diffusion.policy import Conditioning
from itercomp_rl.gallery.attention import cross_attention
from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.planning.planners import Planners
from itercomp_rl.gallery.planning.regions import Regions
from itercomp_rl.gallery.rpg.region_attention import RegionAttention, RegionBank
from itercomp_rl.gallery.sampling import negatives, num_unconditional, require_unet, sample
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef


class Rpg:
    """Regional prompts on an SD1.x or SDXL checkpoint; satisfies GallerySystem. Source: RPG (arXiv 2401.11708)."""

    def __init__(self, backbones: Backbones, planners: Planners) -> None:
        self._backbones, self._planners = backbones, planners

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says; the notes hold each image's plan."""
        planned = self._planners.regions(model.planner, prompts)
        policy = self._backbones.policy(model)
        require_unet(policy, model)
        plans = [plan for plan, _ in planned]
        # All region prompts of all images go through the text encoders, and through each attention, in one batch.
        cond = policy.encode([*prompts, *(cell.phrase for plan in plans for cell in plan.cells)])
        base, bank = _bank(model, plans, cond, policy.latent_shape[1:])
        network = policy.guided(base, model.guidance, negatives(model, len(prompts)))
        with cross_attention(policy.trainable, RegionAttention(bank)):
            images = sample(policy, model, network, seeds)
        return Drawn(images=images, notes=tuple(note for _, note in planned))


def _bank(
    model: ModelRef, plans: Sequence[Regions], cond: Conditioning, latent_hw: tuple[int, ...]
) -> tuple[Conditioning, RegionBank]:
    num = len(plans)
    owners = [image for image, plan in enumerate(plans) for _ in plan.cells]
    base = cond.index(slice(0, num))
    if cond.pooled is not None and model.pooled == "last_region":
        last = [num + len(owners) - 1 - owners[::-1].index(image) for image in range(num)]
        base = replace(base, pooled=cond.pooled[last])
    bank = RegionBank(
        rows=torch.tensor(owners, device=cond.tokens.device) + num_unconditional(model, num),
        tokens=cond.tokens[num:],
        cells=[(cell.top, cell.bottom, cell.left, cell.right) for plan in plans for cell in plan.cells],
        base_ratio=model.base_ratio,
        latent_hw=(latent_hw[0], latent_hw[1]),
    )
    return base, bank
