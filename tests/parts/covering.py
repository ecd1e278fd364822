"""The cases of a matrix: a few that cover every value of every axis are slow tests, the others are exhaustive ones."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def covering(*axes: Sequence[Any]) -> list[Any]:
    """Parameters for every combination of the values of `axes`; one in k is marked slow, all others exhaustive.

    k is as large as it can be while every value of every axis is in a slow case: cases are taken where the sum of their
    places is a multiple of k, and the shorter axes together have k sums.
    """
    lengths = sorted(map(len, axes))
    one_in = 1 + sum(length - 1 for length in lengths[:-1])
    cases = []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        mark = pytest.mark.exhaustive if sum(places) % one_in else pytest.mark.slow
        cases.append(pytest.param(*(axis[i] for axis, i in zip(axes, places, strict=True)), marks=mark))
    return cases
