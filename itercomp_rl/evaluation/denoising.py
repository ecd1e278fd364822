"""What a policy has forgotten: its denoising loss on held-out pictures, at fixed noise levels and with fixed noise."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.diffusion.denoise import image_generators, noised_at, standard_noise
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import DivergedError
from itercomp_rl.items import MeasureOrder
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import parse
from itercomp_rl.store.kinds import EVALUATIONS
from itercomp_rl.store.store import Store

NUM_LEVELS = 10  # noise levels, the middles of ten equal parts from clean to pure noise


@torch.no_grad()
def denoising_losses(
    policy: Policy, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str], seeds: Sequence[int], batch: int
) -> list[float]:
    """The pre-training loss of each picture [H, W, 3], a mean over the noise levels; a seed sets a picture's noise.

    A distilled guidance that the network is told is 1 here, as in pre-training: a picture says nothing about guidance.

    Raises: DivergedError if it is not finite.
    """
    found: list[float] = []
    for start in range(0, len(pictures), batch):
        rows = slice(start, start + batch)
        images = [torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 for picture in pictures[rows]]
        x0 = policy.encode_images(torch.cat([policy.fit(image.to(policy.device)) for image in images]))
        cond = policy.encode(prompts[rows]).at_distilled_guidance(1.0)
        generators = image_generators(seeds[rows])
        loss_B = torch.zeros(len(x0), device=policy.device)
        for level in range(NUM_LEVELS):
            middle = int((level + 0.5) / NUM_LEVELS * len(policy.process.signal_T))
            noise = standard_noise(generators, policy.latent_shape, policy.device)
            latents, target, timesteps_B = noised_at(policy.process, x0, torch.full((len(x0),), middle), noise)
            error = policy.predict(latents, cond, timesteps_B) - target.float()
            loss_B += error.square().flatten(1).mean(1) / NUM_LEVELS
        found += loss_B.tolist()
    if not np.isfinite(found).all():
        raise DivergedError("the denoising loss on held-out pictures is not finite: lower policy.engine.lr")
    return found


def rendered(store: Store, order: MeasureOrder) -> list[NDArray[np.uint8]]:
    """The embedded world's own pictures of the prompts, laid out by the seeds."""
    scenes = [parse(prompt.text) for prompt in order.prompts]
    layouts = [place(scene, np.random.default_rng(seed)) for scene, seed in zip(scenes, order.seeds, strict=True)]
    return list(render(scenes, layouts))


def drawn(store: Store, order: MeasureOrder) -> list[NDArray[np.uint8]]:
    """What gallery models drew for the prompts, from the store."""
    segments = {id_: store.get(EVALUATIONS, id_).arrays["images"] for id_ in {ref.segment for ref in order.images}}
    return [segments[ref.segment][ref.row] for ref in order.images]


# By prompts.source. Only the world has pictures of its prompts: elsewhere the gallery's first models draw them.
PICTURES: dict[str, Callable[[Store, MeasureOrder], list[NDArray[np.uint8]]]] = {
    "shapes": rendered,
    "t2i_compbench": drawn,
    "files": drawn,
}
