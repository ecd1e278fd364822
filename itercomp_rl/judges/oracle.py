"""The judge of the embedded world: the oracle's grades stand where people stood in the paper."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import Prompt
from itercomp_rl.judges.scoring import Score
from itercomp_rl.shapes.oracle import Grade, grade
from itercomp_rl.shapes.scenes import parse


def grades(images: NDArray[np.uint8], prompts: list[Prompt]) -> list[dict[str, Grade]]:
    """Grades of images [B, H, W, 3], each by the prompt at its place; keys are the prompt's aspects."""
    return [grade(image, parse(prompt.text)) for image, prompt in zip(images, prompts, strict=True)]


class OracleScorer:
    """The oracle as a ImageScorer; every prompt must be of the embedded world's language."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        return [
            {
                aspect: Score(value=found.score, passed=found.passed)
                for aspect, found in grade(image, parse(prompt.text)).items()
            }
            for prompt, image in zip(prompts, images, strict=True)
        ]
