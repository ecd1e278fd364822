"""What each aspect wants of each image, as its gradient with respect to the pixels: compared, and freed of conflicts.

All pulls of an image pass through its pixels before they reach the network, so that they can be told apart there for
the backward pass of the reward models alone; the network's own backward pass runs once, for what is left of them.
"""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

# B images; gradients are [B, 3, H, W] per aspect

Gradients = dict[str, Tensor]


def image_gradients(losses: Mapping[str, Tensor], images: Tensor) -> Gradients:
    """The gradient of each aspect's scalar loss with respect to images [B, 3, H, W] in 0..1, float32; keeps the graph.

    It is 0 at the pixel values that decoding clamped: no gradient passes there, so that they should decide no conflict.
    """
    is_free = ~is_clamped(images)
    found = {aspect: torch.autograd.grad(loss, images, retain_graph=True)[0] for aspect, loss in losses.items()}
    return {aspect: gradient.float() * is_free for aspect, gradient in found.items()}


def is_clamped(images: Tensor) -> Tensor:
    """Which values of decoded images the clamp to 0..1 has cut off, bool, same shape."""
    return (images.detach() <= 0) | (images.detach() >= 1)


def without_conflicts(gradients: Mapping[str, Tensor], seed: int) -> Gradients:
    """Each aspect's gradient of each image, projected onto the normal plane of every other that it conflicts with.

    Two gradients of one image conflict if their dot product is negative. An aspect is freed of the others one after
    the other, in an order that `seed` sets, always against their gradients as they were. What conflicts with nothing
    stays as it is, bit for bit.
    Source: PCGrad (arXiv 2001.06782), algorithm 1, with the images in place of the parameters.
    """
    generator, aspects = torch.Generator().manual_seed(seed), list(gradients)
    found = {}
    for aspect in aspects:
        freed = gradients[aspect]
        for place in torch.randperm(len(aspects), generator=generator).tolist():
            if aspects[place] != aspect:
                freed = _normal_to_conflict(freed, gradients[aspects[place]])
        found[aspect] = freed
    return found


def _normal_to_conflict(gradient: Tensor, other: Tensor) -> Tensor:
    """`gradient` less its part against `other`, image by image; the same where they do not conflict."""
    against_B = _dot(gradient, other).clamp(max=0)
    share_B = against_B / _dot(other, other).clamp(min=torch.finfo(torch.float32).tiny)
    return gradient - share_B.view(-1, 1, 1, 1) * other


def gradient_metrics(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """Norm of each aspect's pull on an image and cosine of each two aspects', means over the images that they pull.

    The gradients are those of a mean over B images: times B, they are the images' own, whatever the batch. An aspect,
    or two of them, that pull no image of the batch say nothing.
    """
    norms = {aspect: gradient.flatten(1).norm(dim=1) for aspect, gradient in gradients.items()}
    found = {}
    for aspect, norm_B in norms.items():
        if (is_pulled_B := norm_B > 0).any():
            found[f"image_gradient_norm_{aspect}"] = (norm_B[is_pulled_B] * len(norm_B)).mean().item()
    for one, other in combinations(gradients, 2):
        norm_B = norms[one] * norms[other]
        if (are_pulled_B := norm_B > 0).any():
            cosine_B = _dot(gradients[one], gradients[other])[are_pulled_B] / norm_B[are_pulled_B]
            found[f"image_gradient_cosine_{one}_{other}"] = cosine_B.mean().item()
    return found


def loss_along(gradients: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """A scalar whose gradient with respect to the images is the sum of these; its value means nothing."""
    return (images * torch.stack(list(gradients.values())).sum(0).detach()).sum()


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Dot product of each image's gradients, [B]."""
    return (one.flatten(1) * other.flatten(1)).sum(1)
