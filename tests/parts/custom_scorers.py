"""Scorers as users write them, named in configs as python:tests.parts.custom_scorers:Brightness."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Brightness:
    """The mean of an image's pixels, under any prompt."""

    differentiable = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def score(self, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return image_B3HW.mean((1, 2, 3))


class WordCount:
    """The words of the prompt: no image can change it."""

    differentiable = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def score(self, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(prompt.split())) for prompt in prompts], device=self.device)


class Broken:
    """One score for all images."""

    differentiable = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def score(self, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return image_B3HW.mean()


class Constant:
    """One half, whatever the image."""

    differentiable = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def score(self, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        return 0 * image_B3HW.mean((1, 2, 3)) + 0.5


class Nameless:
    """Not a scorer."""
