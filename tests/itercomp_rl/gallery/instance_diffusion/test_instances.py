"""Instances as given, and as tensors."""

import numpy as np
import pytest
import torch
from torch import Tensor

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.instance_diffusion.instances import (
    Instance,
    InstancePicture,
    instance_tensors,
    picture_of,
    polygon_points,
    scribble_points,
)
from itercomp_rl.gallery.planning.layout import Box, Layout

BOX = Box(phrase="a cup", left=0.2, top=0.4, right=0.6, bottom=0.8)


def pooled(phrases: list[str]) -> Tensor:
    return torch.tensor([[float(len(phrase)), 1.0] for phrase in phrases])


def test_a_box_places_its_centre_too() -> None:
    found = instance_tensors([picture_of(Layout(prompt="a cup", boxes=(BOX,))).instances], pooled, 64)
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0.2, 0.4, 0.6, 0.8]))
    torch.testing.assert_close(found.points[0, 0], torch.tensor([0.4, 0.6]))
    assert [float(w[0, 0]) for w in (found.has_boxes, found.has_points, found.has_scribbles)] == [1.0, 1.0, 0.0]
    assert float(found.filled.sum()) == 1
    assert found.text[0, 0].tolist() == [5.0, 1.0]


def test_each_kind_of_place_is_known_only_where_it_is_given() -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:16] = True
    things = [
        Instance(phrase="a", point=(0.1, 0.2)),
        Instance(phrase="b", scribble=((0.1, 0.1), (0.9, 0.9))),
        Instance(phrase="c", mask=mask),
    ]
    found = instance_tensors([things, []], pooled, 64)
    kinds = ("has_boxes", "has_points", "has_scribbles", "has_polygons")
    known = {kind: getattr(found, kind)[0, :3].tolist() for kind in kinds}
    assert known == {
        "has_boxes": [0, 0, 0],
        "has_points": [1, 0, 0],
        "has_scribbles": [0, 1, 0],
        "has_polygons": [0, 0, 1],
    }
    assert found.has_segs is not None and found.has_segs.tolist() == [1, 0]
    assert found.segs is not None and float(found.segs[0, 2].mean()) == pytest.approx(1 / 16)


def test_a_masks_points_lie_in_the_mask_half_of_them_on_its_edge() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 8:56] = True
    points = polygon_points(mask)
    pixels = [(round(x * 64), round(y * 64)) for x, y in points]
    assert len(points) == 256
    assert all(mask[y, x] for x, y in pixels)
    assert sum(x in (8, 55) or y in (16, 47) for x, y in pixels) >= 128
    assert points == sorted(points, key=lambda point: np.hypot(*point))


def test_a_mask_of_one_pixel_has_its_points_too() -> None:
    mask = np.zeros((8, 8), bool)
    mask[3, 5] = True
    assert set(polygon_points(mask)) == {(5 / 8, 3 / 8)}


def test_scribbles_of_any_length_become_twenty_points() -> None:
    few = [(0.5, 0.5), (0.1, 0.1)]
    assert scribble_points(few) == [(0.1, 0.1)] * 10 + [(0.5, 0.5)] * 10
    many = [(i / 100, 0.0) for i in range(100)]
    assert scribble_points(many[::-1]) == [(5 * i / 100, 0.0) for i in range(20)]


def test_an_instance_without_a_place_is_refused() -> None:
    with pytest.raises(PlanError, match="'a cup' has no place"):
        Instance(phrase="a cup")


def test_places_outside_the_picture_and_empty_masks_are_refused() -> None:
    with pytest.raises(PlanError, match="shares from 0 to 1"):
        Instance(phrase="a cup", point=(1.2, 0.5))
    with pytest.raises(PlanError, match="mask of instance 'a cup' is empty"):
        Instance(phrase="a cup", mask=np.zeros((4, 4), bool))


def test_thirty_instances_are_taken_and_thirty_one_refused() -> None:
    one = Instance(phrase="a cup", box=BOX)
    InstancePicture(prompt="cups", instances=(one,) * 30)
    with pytest.raises(PlanError, match="31 instances; at most 30"):
        InstancePicture(prompt="cups", instances=(one,) * 31)
