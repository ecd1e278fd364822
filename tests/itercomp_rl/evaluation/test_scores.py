"""Means, clustered standard errors and paired gains."""

import pytest

from itercomp_rl.evaluation.scores import Graded, aspects_of, gain


def graded(scores: list[float]) -> list[Graded]:
    return [Graded(place=i, prompt=f"p{i // 2}", score=score, passed=score > 0.5) for i, score in enumerate(scores)]


def test_a_gain_is_paired() -> None:
    # Differences .1 everywhere: the error of the difference is 0, however spread the scores are.
    found = gain(graded([0.1, 0.9, 0.3, 0.5]), graded([0.0, 0.8, 0.2, 0.4]))
    assert found.mean == pytest.approx(0.1)
    assert found.se == pytest.approx(0, abs=1e-12)


def test_gains_over_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        gain(graded([0.1, 0.2]), [Graded(place=0, prompt="other", score=0.1, passed=False)] * 2)


def test_the_aspects_object_names_base_rounds_and_gallery() -> None:
    grades = {
        name: {"spatial": graded([s, s, s, 0.0])} for name, s in (("base", 0.2), ("sharp", 0.9), ("policy-0", 0.6))
    }
    found = aspects_of(grades, "base", ["policy-0"])["spatial"]
    assert found["base"]["mean"] == pytest.approx(0.15)
    assert found["rounds"][0]["n"] == 4
    assert list(found["gallery"]) == ["sharp"]
    assert found["paired_gain"]["mean"] == pytest.approx(0.3)
