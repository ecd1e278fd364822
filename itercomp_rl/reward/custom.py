"""Scorers of a user's own: a class that the environment can import, named by its dotted path in a config.

# mine/scorers.py, in a package that is installed or on PYTHONPATH of every process
class Sharpness:
    differentiable = True

    def __init__(self, device: torch.device) -> None: ...

    def score(self, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:  # [B]
        return image_B3HW.diff(dim=-1).abs().mean((1, 2, 3))

judge.reward_models.attribute=python:mine.scorers:Sharpness
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itercomp_rl.config.scorer_names import CLASS_PATH
from itercomp_rl.errors import ConfigError, JudgeError

CUSTOM_BATCH = 16  # images of one call


class CustomScorer(Protocol):
    """A user's scorer class must have these members.

    Every process that scores with the class makes its own instance and passes the device to use.
    """

    differentiable: bool  # whether a gradient goes from a score to the image, so that a policy can climb it

    def __init__(self, device: torch.device) -> None: ...

    def score(self, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B], higher is better, of images of one size in 0..1, each under the prompt at its place."""
        ...


def find_custom(key: str, path: str) -> type[CustomScorer]:
    """The class at "package.module:Class".

    Raises: ConfigError, naming setting `key`, if it cannot be imported or lacks what a scorer must have.
    """
    if not CLASS_PATH.fullmatch(path):
        raise ConfigError(f"{key} is 'python:{path}': must be python:package.module:Class")
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key} is 'python:{path}', which cannot be imported ({error}): install the package in the environment of "
            "every process, or put its folder on their PYTHONPATH"
        ) from error
    for needed in ("score", "differentiable"):
        if not hasattr(found, needed):
            raise ConfigError(
                f"{key} is 'python:{path}', which has no `{needed}`: a scorer has `differentiable`, True or False, and "
                "`score(images, prompts)`"
            )
    return found


def score_custom(
    scorer: CustomScorer, source: str, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], device: torch.device
) -> list[float]:
    """Scores of images [H, W, 3] of any sizes, each under the prompt at its place.

    Raises: JudgeError for scores of another number than the images, or that are not finite.
    """
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        rows_of.setdefault(image.shape, []).append(i)
    found = [0.0] * len(images)
    for rows in rows_of.values():
        for start in range(0, len(rows), CUSTOM_BATCH):
            part = rows[start : start + CUSTOM_BATCH]
            pixels = torch.from_numpy(np.stack([images[i] for i in part])).to(device).permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                scores = checked_scores(scorer, source, pixels, [prompts[i] for i in part])
            for i, score in zip(part, scores.float().tolist(), strict=True):
                found[i] = score
    return found


def checked_scores(scorer: CustomScorer, source: str, image_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
    """The scores [B] that a class gives. Raises: JudgeError if these are no B finite numbers."""
    scores = scorer.score(image_B3HW, prompts)
    if scores.shape != (len(image_B3HW),) or not bool(scores.isfinite().all()):
        raise JudgeError(
            f"{source} gave {scores.detach().flatten()[:4].tolist()}, shaped {list(scores.shape)}, for "
            f"{len(image_B3HW)} images: must be one finite number for each"
        )
    return scores
