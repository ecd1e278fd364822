"""Frozen rewards: standardised by a gallery, with a gradient, and refused where they have none."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError, DivergedError, JudgeError
from itercomp_rl.reward.frozen import FrozenReward

CPU, KEY = torch.device("cpu"), "policy.frozen_rewards.extra.source"


def custom(name: str) -> FrozenReward:
    return FrozenReward(KEY, f"python:tests.parts.custom_scorers:{name}", CPU)


def gallery(num: int) -> list[tuple[Sequence[NDArray[np.uint8]], Sequence[str]]]:
    """Images of several sizes in batches of three."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 20 * (i + 2), (8 + i % 3, 8, 3), dtype=np.uint8) for i in range(num)]
    return [(images[i : i + 3], ["a cat"] * len(images[i : i + 3])) for i in range(0, num, 3)]


def test_scores_of_the_gallery_have_mean_0_and_standard_deviation_1() -> None:
    reward = custom("Brightness")
    reward.calibrate(gallery(7))
    flat = [image for images, _ in gallery(7) for image in images]
    score = reward.prepared(["a cat"])
    found = [float(score(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)) for image in flat]
    assert np.mean(found) == pytest.approx(0, abs=1e-5)
    assert np.std(found, ddof=1) == pytest.approx(1, rel=1e-5)


def test_a_gradient_reaches_every_pixel() -> None:
    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    reward = custom("Brightness")
    reward.calibrate(gallery(6))
    reward.prepared(["a", "b"])(image).sum().backward()
    assert image.grad is not None
    assert torch.allclose(image.grad, torch.full_like(image, 1 / (3 * 64 * reward.std)))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("WordCount", "frozen_rewards.extra.source is .* says that it is not differentiable.*judge.reward_models"),
        ("Nameless", "has no `score`"),
        ("Nobody", "cannot be imported .*Nobody.*PYTHONPATH"),
    ],
)
def test_a_class_that_cannot_be_climbed_is_refused_by_its_setting(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        custom(name)


def test_scores_that_are_not_one_number_for_each_image_are_refused() -> None:
    with pytest.raises(JudgeError, match=r"Broken gave .*shaped \[\], for 1 images: must be one finite number"):
        custom("Broken").calibrate(gallery(4))


@pytest.mark.parametrize(("name", "num"), [("Constant", 6), ("Brightness", 1), ("Brightness", 0)])
def test_a_gallery_that_it_cannot_tell_apart_is_refused(name: str, num: int) -> None:
    with pytest.raises(DivergedError, match="a frozen reward must tell them apart"):
        custom(name).calibrate(gallery(num))
