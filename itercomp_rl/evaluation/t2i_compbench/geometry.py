"""Scores from where objects were detected: 2D and 3D relations and counts, as T2I-CompBench computes them.

Pure arithmetic over boxes and depth. The benchmark detects with UniDet; with another detector the numbers are not
comparable with published ones. Mode "official" repeats the benchmark's code, "fixed" does what it plainly means.
Source: T2I-CompBench (arXiv 2307.06350) and T2I-CompBench++, UniDet_eval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["official", "fixed"]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

# In the benchmark's order: the first that a prompt holds is its relation.
RELATIONS_2D = (
    "on side of",
    "next to",
    "near",
    "on the left of",
    "on the right of",
    "on the bottom of",
    "on the top of",
    "on top of",
)
RELATIONS_3D = ("in front of", "behind", "hidden")
NEAR = ("next to", "on side of", "near")
NEAR_PX = 150.0
MAX_IOU_2D, MIN_IOU_3D = 0.1, 0.5
SAME_OBJECT = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Detection(name="cat", score=0.91, box=(10.0, 20.0, 110.0, 140.0)); detections come surest first."""

    name: str
    score: float
    box: Box


def relation_of(prompt: str, relations: Sequence[str]) -> str | None:
    """The first of `relations` that stands in the prompt."""
    return next((relation for relation in relations if relation in prompt), None)


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    union = _area(one) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def position_2d(relation: str | None, one: Box, other: Box, mode: Mode) -> float:
    """How far `one` stands in the relation to `other`, in 0..1.

    Left, right, top and bottom need that axis to dominate the distance of the centres; an overlap above .1 IoU costs.
    mode "official" does not know "on top of", which scores 0; "fixed" takes it as "on the top of".
    """
    if relation == "on top of" and mode == "fixed":
        relation = "on the top of"
    dx = (other[0] + other[2] - one[0] - one[2]) / 2
    dy = (other[1] + other[3] - one[1] - one[3]) / 2
    if relation in NEAR:
        return 1.0 if min(abs(dx), abs(dy)) < NEAR_PX else NEAR_PX / max(abs(dx), abs(dy))
    ahead, aside = {
        "on the left of": (dx, dy),
        "on the right of": (-dx, dy),
        "on the top of": (dy, dx),
        "on the bottom of": (-dy, dx),
    }.get(relation or "", (0.0, 0.0))
    if ahead <= 0 or ahead <= abs(aside):
        return 0.0
    overlap = iou(one, other)
    return 1.0 if overlap < MAX_IOU_2D else MAX_IOU_2D / overlap


def position_3d(relation: str | None, one: Box, other: Box, depth: NDArray[np.floating], mode: Mode) -> float:
    """How far `one` is in front of or behind `other`, in 0..1: by mean depth in the boxes and by their overlap.

    Args: depth [H, W], larger = nearer. mode "official" takes x for the row and y for the column.
    """
    if relation not in RELATIONS_3D:
        return 0.0
    nearer = _mean_depth(depth, one, mode) - _mean_depth(depth, other, mode)
    if not (nearer > 0 if relation == "in front of" else nearer < 0):
        return 0.0
    overlap = iou(one, other)
    if overlap == MIN_IOU_3D:
        return 0.0 if mode == "official" else 1.0  # the official branches leave equality out
    return min(1.0, overlap / MIN_IOU_3D)


def score_2d(
    relation: str | None, objects: tuple[str, str] | None, detections: Sequence[Detection], mode: Mode
) -> float:
    """A quarter of each object's detection score and half the position; below .5 nothing."""
    first, second = (_first(detections, name) for name in objects) if objects else (None, None)
    score = 0.25 * sum(found.score for found in (first, second) if found)
    if first and second:
        score += position_2d(relation, first.box, second.box, mode) / 2
    return score if score >= 0.5 else 0.0


def score_3d(
    relation: str | None,
    objects: tuple[str, str],
    detections: Sequence[Detection],
    depth: NDArray[np.floating],
    mode: Mode,
) -> float:
    """As `score_2d` with the position in depth, without the cut at .5; a detection's name need only hold the object's.

    Where both objects are there, detections are walked until both are found and a later match replaces an earlier.
    """
    names = " ".join(detection.name for detection in detections)
    there = [name for name in objects if name in names]
    if not there:
        return 0.0
    if objects[0] not in there or objects[1] not in there:
        found = next((d for d in detections if there[0] in d.name), None)
        return 0.25 * found.score if found else 0.0
    first = second = None
    for detection in detections:
        first = detection if objects[0] in detection.name else first
        second = detection if objects[1] in detection.name else second
        if first and second:
            position = position_3d(relation, first.box, second.box, depth, mode)
            return 0.25 * (first.score + second.score) + position / 2
    return 0.0  # a name that only spans two detections' names


def score_counts(wanted: Sequence[tuple[int, str]], detections: Sequence[Detection]) -> float:
    """Each wanted (number, object) earns half its share if one is detected and the other half if the number is right.

    Raises: ValueError if nothing is wanted.
    """
    if not wanted:
        raise ValueError("the prompt counts nothing")
    names = [detection.name for detection in distinct(detections)]
    score = 0.0
    for number, name in wanted:
        if name not in names:
            names = [name if name in other else other for other in names]
        count = names.count(name)
        score += (0.5 * (count > 0) + 0.5 * (count == number and count > 0)) / len(wanted)
    return score


def distinct(detections: Sequence[Detection]) -> list[Detection]:
    """Detections without repeats: boxes of one name that overlap, or lie in one another, by more than .9."""
    kept: list[Detection] = []
    for detection in detections:
        if not any(detection.name == other.name and same_object(detection.box, other.box) for other in kept):
            kept.append(detection)
    return kept


def same_object(one: Box, other: Box) -> bool:
    """Whether two boxes frame one thing; a box of pixels x1..x2 is x2 - x1 + 1 wide here."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    shared = width * height
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return any(shared > SAME_OBJECT * area for area in (*areas, sum(areas) - shared))


def _first(detections: Sequence[Detection], name: str) -> Detection | None:
    return next((detection for detection in detections if detection.name == name), None)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _mean_depth(depth: NDArray[np.floating], box: Box, mode: Mode) -> float:
    x1, y1, x2, y2 = (int(edge) for edge in box)
    part = depth[x1:x2, y1:y2] if mode == "official" else depth[y1:y2, x1:x2]
    return float(part.mean()) if part.size else float("nan")  # nan compares as neither nearer nor farther
