"""Instances as people and planners give them, and as UniFusion reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.instance_diffusion.unifusion import (
    DIMS,
    NUM_POLYGON_POINTS,
    NUM_SCRIBBLE_POINTS,
    Instances,
)
from itercomp_rl.gallery.planning.layout import MAX_BOXES, Box, Layout

Point = tuple[float, float]  # x, y in shares of width and height


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One thing, placed by any of four means: Instance(phrase="a red cup", point=(0.3, 0.5)).

    A box also places a point, its centre, where none is given. mask: bool [H, W] of the whole picture, True inside.
    """

    phrase: str
    box: Box | None = None
    point: Point | None = None
    scribble: tuple[Point, ...] = ()
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises: PlanError if nothing places it, a point lies outside the picture, or the mask is empty."""
        if self.box is None and self.point is None and not self.scribble and self.mask is None:
            raise PlanError(f"instance {self.phrase!r} has no place: give a box, point, scribble or mask")
        for x, y in (*self.scribble, *([self.point] if self.point else [])):
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise PlanError(f"instance {self.phrase!r} has a point at ({x}, {y}): shares from 0 to 1 are needed")
        if self.mask is not None and not self.mask.any():
            raise PlanError(f"the mask of instance {self.phrase!r} is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePicture:
    """What to draw: InstancePicture(prompt="a cup beside a plate", instances=(Instance(...), Instance(...)))."""

    prompt: str
    instances: tuple[Instance, ...]

    def __post_init__(self) -> None:
        """Raises: PlanError if there are more instances than UniFusion has slots for."""
        if len(self.instances) > MAX_BOXES:
            raise PlanError(
                f"the picture of {self.prompt!r} has {len(self.instances)} instances; at most {MAX_BOXES} are taken"
            )


def picture_of(layout: Layout) -> InstancePicture:
    """A planner's boxes as instances."""
    return InstancePicture(
        prompt=layout.prompt, instances=tuple(Instance(phrase=box.phrase, box=box) for box in layout.boxes)
    )


def instance_tensors(
    groups: Sequence[Sequence[Instance]], pooled: Callable[[list[str]], Tensor], seg_side: int
) -> Instances:
    """What UniFusion reads of several pictures' instances; float32 on the CPU.

    pooled: pooled text [N, D] of phrases.
    """
    phrases = [instance.phrase for group in groups for instance in group]
    text = pooled(phrases or [""])  # for its width, where there is nothing to encode
    shape = (len(groups), MAX_BOXES)
    values = {kind: torch.zeros(*shape, width) for kind, width in DIMS.items()}
    known = {kind: torch.zeros(shape) for kind in DIMS}
    slots, filled = torch.zeros(*shape, text.shape[1]), torch.zeros(shape)
    segs = torch.zeros(*shape, seg_side, seg_side)
    row = 0
    for b, group in enumerate(groups):
        for n, instance in enumerate(group):
            slots[b, n], filled[b, n] = text[row], 1
            row += 1
            for kind, coordinates in _coordinates(instance).items():
                values[kind][b, n], known[kind][b, n] = torch.tensor(coordinates), 1
            if instance.mask is not None:
                segs[b, n] = _resized(instance.mask, seg_side)
    return Instances(
        text=slots,
        filled=filled,
        segs=segs,
        has_segs=segs.flatten(1).any(dim=1).float(),
        **values,
        **{f"has_{kind}": weight for kind, weight in known.items()},
    )


def _coordinates(instance: Instance) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    point, box = instance.point, instance.box
    if box is not None:
        found["boxes"] = [box.left, box.top, box.right, box.bottom]
        point = point or ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    if point is not None:
        found["points"] = list(point)
    if instance.scribble:
        found["scribbles"] = _flat(scribble_points(instance.scribble))
    if instance.mask is not None:
        found["polygons"] = _flat(polygon_points(instance.mask))
    return found


def scribble_points(points: Sequence[Point], num: int = NUM_SCRIBBLE_POINTS) -> list[Point]:
    """`num` of the points, evenly apart in their order from the top left corner outwards; repeated if too few."""
    ordered = sorted(points, key=lambda point: np.hypot(*point))
    if len(ordered) >= num:
        return [ordered[i * (len(ordered) // num)] for i in range(num)]
    return [ordered[i * len(ordered) // num] for i in range(num)]


def polygon_points(mask: NDArray[np.bool_], num: int = NUM_POLYGON_POINTS) -> list[Point]:
    """`num` points of a mask, half of them of its edge and half of its inside, from the top left corner outwards.

    Edge and inside are sampled evenly from pixels in their order of distance; the official code follows contours.
    """
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    size = np.array(mask.shape[::-1])
    points: list[Point] = []
    for chosen in (mask & ~inner, mask):
        xy = np.argwhere(chosen)[:, ::-1] / size
        xy = xy[np.argsort(np.hypot(xy[:, 0], xy[:, 1]), kind="stable")]
        points += [(float(x), float(y)) for x, y in xy[np.linspace(0, len(xy) - 1, num // 2).astype(int)]]
    return sorted(points, key=lambda point: np.hypot(*point))


def _flat(points: Sequence[Point]) -> list[float]:
    return [coordinate for point in points for coordinate in point]


def _resized(mask: NDArray[np.bool_], side: int) -> Tensor:
    image = torch.from_numpy(mask.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(image, (side, side), mode="nearest")[0, 0]
