"""From a guided network and seeds to finished images, with whichever scheduler a gallery member names."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from itercomp_rl.diffusion.denoise import Network, denoise, image_generators
from itercomp_rl.diffusion.policy import Policy, as_uint8
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.karras import sample_karras
from itercomp_rl.items import ModelRef

KARRAS = "dpmpp_2m_karras"


@torch.no_grad()
def sample(
    policy: Policy, model: ModelRef, network: Network, seeds: Sequence[int], start: Tensor | None = None
) -> np.ndarray:
    """Images uint8 [B, H, W, 3], one per seed, each from its own generator.

    start: clean latents [B, C, H, W] under the first noise; KARRAS only, other schedulers begin at noise alone.
    """
    generators = image_generators(seeds)
    noise = policy.start_latents(generators)
    if model.scheduler == KARRAS:
        return as_uint8(policy.decode(sample_karras(policy, network, noise, model.num_steps, start)))
    schedule = policy.schedule(model.num_steps, model.scheduler)
    return as_uint8(policy.decode(denoise(network, noise, schedule, (0, model.num_steps), generators)))


def num_unconditional(model: ModelRef, num_images: int) -> int:
    """Rows of a guided batch that come before the images' own."""
    return num_images if model.guidance > 1 else 0


def require_unet(policy: Policy, model: ModelRef) -> None:
    """Raises: ConfigError if the checkpoint has no cross-attention for a plan to act on."""
    if policy.family.trainable_name != "unet":
        raise ConfigError(
            f"gallery.members.{model.name}.model is {model.checkpoint!r}: system {model.system!r} needs an SD1.x or "
            "SDXL checkpoint, this one is a transformer without cross-attention"
        )


def refuse_vain_negative(negative: str | None, guidance: float) -> None:
    """Raises: ConfigError for a negative prompt that nothing would be guided away from."""
    if negative is not None and guidance <= 1:
        raise ConfigError(f"a negative prompt has no effect at guidance {guidance}: leave it unset, or guide above 1")


def negatives(model: ModelRef, num_images: int) -> list[str] | None:
    """The negative prompt for every image, None for the pipeline's own way."""
    return None if model.negative is None else [model.negative] * num_images
