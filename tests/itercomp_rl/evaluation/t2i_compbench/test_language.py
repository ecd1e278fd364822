"""What spaCy is asked about prompts."""

import pytest

from tests.parts.spacy_pipeline import spacy_pipeline


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a red cup on the left of a blue plate", ["cup", "plate"]),
        ("The fluffy cat is on the top of the soft pillow.", ["cat", "pillow"]),
        ("two dogs and a boat", ["dogs", "boat"]),
    ],
)
def test_the_things_of_a_prompt_are_its_head_nouns_without_places(prompt: str, things: list[str]) -> None:
    name = spacy_pipeline()
    from itercomp_rl.evaluation.t2i_compbench.language import Language

    assert Language(name).things(prompt) == things
