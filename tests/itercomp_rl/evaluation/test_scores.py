"""Means, clustered standard errors and paired gains."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.evaluation.scores import Graded, aspects_of, clustered_mean, gain


def graded(scores: list[float]) -> list[Graded]:
    return [Graded(place=i, prompt=f"p{i // 2}", score=score, passed=score > 0.5) for i, score in enumerate(scores)]


def test_a_hand_worked_clustered_standard_error() -> None:
    # Mean 2; residuals -1, -1 | 1, 1; cluster sums -2 and 2; squares 8; times 2/1 = 16; root 4; over 4 values = 1.
    found = clustered_mean([1, 1, 3, 3], ["a", "a", "b", "b"])
    assert (found.mean, found.se, found.n) == (2, 1, 4)


def test_clusters_of_one_give_the_usual_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = clustered_mean(list(values), [str(i) for i in range(50)])
    assert found.se == pytest.approx(values.std(ddof=1) / math.sqrt(50))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_copies_of_an_image_teach_nothing(values: list[float]) -> None:
    names = [str(i) for i in range(len(values))]
    once = clustered_mean(values, names)
    thrice = clustered_mean(values * 3, names * 3)
    assert thrice.mean == pytest.approx(once.mean)
    assert thrice.se == pytest.approx(once.se, abs=1e-12)


def test_one_cluster_has_no_known_error() -> None:
    assert clustered_mean([1.0, 2.0], ["a", "a"]).se == math.inf


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean([], [])


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
