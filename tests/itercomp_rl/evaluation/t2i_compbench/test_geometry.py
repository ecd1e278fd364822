"""Scores of boxes and depth, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.evaluation.t2i_compbench.geometry import (
    Detection,
    distinct,
    iou,
    position_2d,
    position_3d,
    score_2d,
    score_3d,
    score_counts,
)

LEFT, RIGHT = (0.0, 40.0, 20.0, 60.0), (70.0, 40.0, 90.0, 60.0)
SIDES = st.integers(0, 50).map(float)  # whole numbers: their centres do not round
BOXES = st.builds(lambda x, y, w, h: (x, y, x + w + 1, y + h + 1), SIDES, SIDES, SIDES, SIDES)


def cat(score: float = 0.8, box: tuple[float, float, float, float] = LEFT) -> Detection:
    return Detection(name="cat", score=score, box=box)


def dog(score: float = 0.6, box: tuple[float, float, float, float] = RIGHT) -> Detection:
    return Detection(name="dog", score=score, box=box)


@given(BOXES, BOXES)
def test_overlap_is_symmetric_and_between_0_and_1(one, other) -> None:
    assert iou(one, other) == pytest.approx(iou(other, one))
    assert 0 <= iou(one, other) <= 1
    assert iou(one, one) == pytest.approx(1)


@given(BOXES, BOXES)
def test_left_of_is_right_of_seen_from_the_other_side(one, other) -> None:
    for here, there in (("on the left of", "on the right of"), ("on the top of", "on the bottom of")):
        assert position_2d(here, one, other, "official") == pytest.approx(position_2d(there, other, one, "official"))


@given(BOXES, BOXES)
def test_no_pair_of_boxes_is_on_two_sides_at_once(one, other) -> None:
    sides = ("on the left of", "on the right of", "on the top of", "on the bottom of")
    assert sum(position_2d(side, one, other, "official") > 0 for side in sides) <= 1


def test_an_overlap_above_a_tenth_costs_in_proportion() -> None:
    # 10x10 boxes moved by 5 to the right: 50 shared, 150 together: IoU 1/3, and .1 / (1/3) = .3
    one, other = (0.0, 0.0, 10.0, 10.0), (5.0, 0.0, 15.0, 10.0)
    assert position_2d("on the left of", one, other, "official") == pytest.approx(0.3)


def test_near_is_within_150_pixels_on_either_axis_or_fades() -> None:
    assert position_2d("near", LEFT, RIGHT, "official") == 1
    # centres 300 and 200 px apart: neither axis within 150; 150 / 300
    assert position_2d("next to", LEFT, (300.0, 240.0, 320.0, 260.0), "official") == pytest.approx(0.5)


def test_on_top_of_is_a_place_only_in_the_fixed_mode() -> None:
    above, below = (0.0, 0.0, 10.0, 10.0), (0.0, 20.0, 10.0, 30.0)
    assert position_2d("on top of", above, below, "official") == 0
    assert position_2d("on top of", above, below, "fixed") == 1


def test_both_found_in_place_score_their_certainty_and_half() -> None:
    # .25 * .8 + .25 * .6 + .5 * 1
    assert score_2d("on the left of", ("cat", "dog"), [cat(), dog()], "official") == pytest.approx(0.85)


def test_below_a_half_there_is_nothing() -> None:
    assert score_2d("on the right of", ("cat", "dog"), [cat(), dog()], "official") == 0  # .2 + .15 + 0
    assert score_2d("on the left of", ("cat", "dog"), [cat()], "official") == 0
    assert score_2d("on the left of", None, [cat()], "official") == 0


def test_the_nearer_of_two_overlapping_boxes_is_in_front() -> None:
    depth = np.zeros((20, 20), np.float32)
    depth[:, :10] = 9
    one, other = (0.0, 0.0, 12.0, 10.0), (4.0, 0.0, 16.0, 10.0)  # 80 shared of 160: IoU exactly .5
    assert position_3d("in front of", one, other, depth, "fixed") == 1
    assert position_3d("in front of", one, other, depth, "official") == 0
    other = (6.0, 0.0, 18.0, 10.0)  # 60 shared of 180: IoU 1/3, of .5
    assert position_3d("in front of", one, other, depth, "fixed") == pytest.approx(2 / 3)
    assert position_3d("behind", one, other, depth, "fixed") == 0
    assert position_3d("behind", other, one, depth, "fixed") == pytest.approx(2 / 3)


def test_official_depth_takes_x_for_the_row() -> None:
    depth = np.zeros((20, 20), np.float32)
    depth[:10, :] = 9  # near at the top
    one, other = (0.0, 0.0, 20.0, 12.0), (0.0, 4.0, 20.0, 16.0)  # `one` is higher: nearer
    assert position_3d("in front of", one, other, depth, "fixed") > 0
    assert position_3d("in front of", one, other, depth, "official") == 0


def test_boxes_apart_or_empty_are_not_in_front_of_each_other() -> None:
    depth = np.arange(400, dtype=np.float32).reshape(20, 20)
    assert position_3d("in front of", (10.0, 10.0, 12.0, 12.0), (0.0, 0.0, 4.0, 4.0), depth, "fixed") == 0
    assert position_3d("in front of", (3.0, 3.0, 3.0, 3.0), (0.0, 0.0, 4.0, 4.0), depth, "fixed") == 0


def test_one_object_alone_scores_a_quarter_in_3d() -> None:
    depth = np.zeros((4, 4), np.float32)
    assert score_3d("behind", ("cat", "dog"), [cat(0.8)], depth, "official") == pytest.approx(0.2)
    assert score_3d("behind", ("cat", "dog"), [], depth, "official") == 0


def test_counts_earn_half_for_presence_and_half_for_the_number() -> None:
    cats = [cat(box=(40.0 * i, 0.0, 40.0 * i + 20, 20.0)) for i in range(3)]
    assert score_counts([(3, "cat")], cats) == 1
    assert score_counts([(2, "cat")], cats) == 0.5
    assert score_counts([(3, "cat"), (1, "dog")], cats) == 0.5
    assert score_counts([(1, "dog")], cats) == 0
    with pytest.raises(ValueError, match="counts nothing"):
        score_counts([], cats)


def test_a_thing_found_twice_counts_once() -> None:
    nearly = (0.2, 40.2, 20.0, 60.0)
    assert len(distinct([cat(), cat(box=nearly), dog(box=nearly)])) == 2
    assert score_counts([(1, "cat")], [cat(), cat(box=nearly)]) == 1
