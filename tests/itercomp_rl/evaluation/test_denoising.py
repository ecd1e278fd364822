"""The denoising loss on held-out pictures: it depends on picture, prompt and seed alone, and rises with forgetting."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from itercomp_rl.config.load import load_config
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import DivergedError
from itercomp_rl.evaluation.denoising import PICTURES, denoising_losses
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import MeasureOrder
from itercomp_rl.plan import Plan
from itercomp_rl.shapes.oracle import grade
from itercomp_rl.shapes.scenes import parse
from itercomp_rl.store.store import open_store


@cache
def asked() -> tuple[MeasureOrder, list[NDArray[np.uint8]]]:
    """Eight held-out pictures of the embedded world."""
    plan = Plan(config=load_config("tiny", ["evaluation.denoising_images=8"]))
    (order,) = plan.measure_orders(plan.policy(-1))
    return order, PICTURES["shapes"](open_store("memory://", create=True), order)


def losses(policy: Policy, batch: int = 8) -> list[float]:
    order, pictures = asked()
    return denoising_losses(policy, pictures, [prompt.text for prompt in order.prompts], order.seeds, batch)


def base() -> Policy:
    return load_policy(checkpoint_path("embedded:base"), dtype="fp32", device=torch.device("cpu"))


def test_the_pictures_show_what_the_held_out_prompts_say_and_come_again_with_their_seeds() -> None:
    order, pictures = asked()
    for prompt, picture in zip(order.prompts, pictures, strict=True):
        assert all(found.passed for found in grade(picture, parse(prompt.text)).values()), prompt.text
    again = PICTURES["shapes"](open_store("memory://", create=True), order)
    assert all((one == other).all() for one, other in zip(pictures, again, strict=True))


def test_a_loss_does_not_depend_on_the_batch_it_was_computed_in() -> None:
    policy = base()
    assert losses(policy, batch=3) == pytest.approx(losses(policy, batch=8), rel=1e-4)


def test_a_policy_with_disturbed_weights_denoises_worse_on_every_picture() -> None:
    policy = base()
    before = losses(policy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.trainable.parameters():
            weight += 0.5 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    assert all(after > 1.5 * loss for after, loss in zip(losses(policy), before, strict=True))


def test_a_loss_that_is_not_finite_ends_with_its_reason() -> None:
    policy = base()
    with torch.no_grad():
        next(policy.trainable.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"lower policy\.engine\.lr"):
        losses(policy)
