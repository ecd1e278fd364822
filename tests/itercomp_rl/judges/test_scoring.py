"""Rankings by score: many prompts at once are as many one by one, and an image without a score is left out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import Prompt
from itercomp_rl.judges.scoring import ByScore, Score


class Brightness:
    """Scores by the first pixel under both aspects; black has no score under "spatial"."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        values = [float(image[0, 0, 0]) for image in images]
        return [
            {name: Score(value=v, passed=True) for name in ("attribute", "spatial") if v or name == "attribute"}
            for v in values
        ]


def images(**values: int) -> dict[str, NDArray[np.uint8]]:
    return {name: np.full((2, 2, 3), value, np.uint8) for name, value in values.items()}


def test_many_prompts_are_ranked_as_each_alone() -> None:
    prompts = [Prompt(id=str(i), text="x", aspects=("attribute", "spatial")) for i in range(4)]
    of_each = [images(a=1, b=2, c=0), images(), images(a=3), images(b=5, a=5)]
    judge = ByScore(Brightness())
    assert judge.judge_all(prompts, of_each) == [judge.judge(p, own) for p, own in zip(prompts, of_each, strict=True)]


def test_an_image_without_a_score_makes_no_pair_and_no_winner() -> None:
    prompt = Prompt(id="p", text="x", aspects=("attribute", "spatial"))
    found = ByScore(Brightness()).judge(prompt, images(a=1, b=2, c=0))
    assert found["attribute"].ranking.places == (("b",), ("a",), ("c",))
    assert found["spatial"].ranking.places == (("b",), ("a",))
    assert set(ByScore(Brightness()).judge(prompt, images(a=1, b=0))) == {"attribute"}
