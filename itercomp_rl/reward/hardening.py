"""Pictures spoilt on purpose, so that a reward model learns that what pleases it is not always better.

A policy that climbs a reward finds what its pairs never showed: parts of two pictures in one, shapes out of joint, and
whatever else the reward's own gradient asks for. Each function makes one such picture out of gallery images; that the
unspoilt one is better is known without a judge.
Source: adversarial training (Madry et al., arXiv 1706.06083), whose gradients are also what people can see (Santurkar
et al., arXiv 1906.09453); changes are coarse here, as a decoder paints no single pixels.
"""

# N images, S side
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PATCHES = 4  # cells of the grid along which patches of another picture are drawn
_JOINTS = 6  # control points along a side where a picture is bent
_BEND = (0.6 / 32, 2.4 / 32)  # standard deviation of the pull at a control point, as a share of the side: least, most


def patched(image: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N,3,S,S] with soft-edged patches, or an even haze for 3 in 10, of the other images [N,3,S,S]."""
    num, device = len(image), image.device
    coarse = torch.rand(num, 1, _PATCHES, _PATCHES, generator=generator)
    level = 0.3 + 0.4 * torch.rand(num, 1, 1, 1, generator=generator)
    patches = torch.sigmoid(25 * (F.interpolate(coarse, image.shape[-1], mode="bilinear", align_corners=False) - level))
    haze = 0.2 + 0.6 * torch.rand(num, 1, 1, 1, generator=generator)
    share = haze.where(torch.rand(num, 1, 1, 1, generator=generator) < 0.3, patches)
    return torch.lerp(image, other, share.to(device))


def bent(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N,3,S,S] whose pixels are taken from some way off, neighbours from nearly the same direction."""
    num, (low, high) = len(image), _BEND
    size = low + (high - low) * torch.rand(num, 1, 1, 1, generator=generator)
    pull = size * torch.randn(num, 2, _JOINTS, _JOINTS, generator=generator)
    pull = 2 * F.interpolate(pull, image.shape[-1], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    straight = F.affine_grid(torch.eye(2, 3).expand(num, 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, (straight + pull).to(image), padding_mode="border", align_corners=False)


@torch.enable_grad()
def attacked(
    score: Callable[[Tensor], Tensor], image: Tensor, rms: Tensor, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Images [N,3,S,S] changed so that `score` (images -> [N]) rises, by `rms` [N] in 0..1 or a little less.

    The change is made at half the resolution. Weights get no gradient from it.
    """
    side = image.shape[-1] // 2
    length = rms.view(-1, 1, 1, 1) * (3 * side * side) ** 0.5
    change = torch.randn(len(image), 3, side, side, generator=generator)
    change = (change / _length(change) * length / 4).to(image)
    length = length.to(image)
    for _ in range(num_steps):
        change.requires_grad_(True)
        (gradient,) = torch.autograd.grad(score(_changed(image, change)).float().sum(), change)
        change = change.detach() + gradient / _length(gradient) * length / num_steps
    return _changed(image, change.detach())


def _length(change: Tensor) -> Tensor:
    return change.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _changed(image: Tensor, change: Tensor) -> Tensor:
    return (image + F.interpolate(change, image.shape[-1], mode="bilinear", align_corners=False)).clamp(0, 1)
