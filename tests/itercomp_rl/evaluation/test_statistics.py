import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.evaluation.statistics import clustered_mean


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
