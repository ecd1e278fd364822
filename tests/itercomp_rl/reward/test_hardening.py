"""Pictures spoilt on purpose: what each way changes, and what it leaves."""

import pytest
import torch
from torch import Tensor

from itercomp_rl.reward.hardening import attacked, bent, patched
from tests.itercomp_rl.reward.test_conv import captions, conv_model

N, SIDE = 6, 32


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(seed: int, side: int = SIDE) -> Tensor:
    return torch.rand(N, 3, side, side, generator=drawn(seed))


@pytest.mark.parametrize("side", [8, 32, 224])
def test_patches_lie_between_the_two_pictures_at_any_size(side: int) -> None:
    image, other = pictures(0, side), pictures(1, side)
    mixed = patched(image, other, drawn(2))
    low, high = torch.minimum(image, other), torch.maximum(image, other)
    assert (mixed >= low - 1e-6).all()
    assert (mixed <= high + 1e-6).all()
    assert ((mixed - image).abs().flatten(1).amax(1) > 0.05).all()
    torch.testing.assert_close(patched(image, image, drawn(2)), image)


@pytest.mark.parametrize("side", [8, 32, 224])
def test_bending_moves_pixels_and_invents_none(side: int) -> None:
    image = pictures(0, side)
    crooked = bent(image, drawn(1))
    assert crooked.shape == image.shape
    assert ((crooked - image).abs().flatten(1).amax(1) > 0.05).all()
    assert (crooked >= image.amin() - 1e-5).all()
    assert (crooked <= image.amax() + 1e-5).all()
    plain = torch.full_like(image, 0.3)
    torch.testing.assert_close(bent(plain, drawn(1)), plain)


def test_an_attack_pleases_the_model_within_its_size_and_teaches_it_nothing() -> None:
    model = conv_model()
    tokens = captions(*[[1, 2, 3]] * N)
    rms = torch.linspace(0.01, 0.06, N)

    def score(images: Tensor) -> Tensor:
        return model(model.normalise(images), *tokens)

    image = pictures(0, model.image_size)
    with torch.no_grad():
        changed = attacked(score, image, rms, 4, drawn(1))
        assert (score(changed) > score(image)).all()
    assert not changed.requires_grad
    assert ((changed - image).square().flatten(1).mean(1).sqrt() <= 1.2 * rms).all()
    assert (changed >= 0).all()
    assert (changed <= 1).all()
    assert all(p.grad is None for p in model.parameters())
