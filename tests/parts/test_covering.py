"""A sample of a matrix that left out a value would leave out a fault."""

import itertools

import pytest

from tests.parts.covering import covering


@pytest.mark.parametrize("lengths", [*itertools.product(range(1, 8), repeat=3)])
def test_every_case_is_there_once_and_every_value_is_in_a_slow_one(lengths: tuple[int, ...]) -> None:
    axes = [range(length) for length in lengths]
    cases = covering(*axes)
    assert [case.values for case in cases] == list(itertools.product(*axes))
    assert {mark.name for case in cases for mark in case.marks} <= {"slow", "exhaustive"}
    slow = [case.values for case in cases if case.marks[0].name == "slow"]
    assert len(slow) < len(cases) or sum(length > 1 for length in lengths) < 2
    for i, axis in enumerate(axes):
        assert {values[i] for values in slow} == set(axis)
