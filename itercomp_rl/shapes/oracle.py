"""The exact oracle: finds the coloured objects of an image and grades each aspect of a scene, without a model."""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from itercomp_rl.shapes.render import BACKGROUND, LINE, PALETTE, SIZE, shape_distance
from itercomp_rl.shapes.scenes import COLOURS, SHAPES, Scene

# H W pixels, K colours (the palette, then background, then line), S mixes of two of them, T templates, D directions
_NODES = np.array([*(PALETTE[colour] for colour in COLOURS), BACKGROUND, LINE], np.float32)
_LINE = len(COLOURS) + 1

PURE = 70.0  # RGB distance up to which a pixel is a sign that its nearest colour is there
FAR = 60.0  # RGB distance past which a pixel belongs to nothing
OFF = 48.0  # RGB distance past which a pixel counts as an artefact: colours 25 off in each channel are still fine
SIZEABLE = 12  # pixels from which a blob is an object; the smallest drawn one has 38
SHAPE_IOU = 0.8  # a shape must fit this well to pass; after a blur of one pixel the right one still fits by .87
SIDE = 4.0  # pixels between two centres from which one is beside the other
GAP = 2.25  # pixels: objects touch up to here (a blurred tip ends two pixels early), and can be tied from here on
WITHIN = 0.75  # share of an object that lies in the hull of another from which it is inside

_EIGHT = np.ones((3, 3), bool)
_CENTRE_X, _CENTRE_Y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
_ANGLES = np.arange(32)[:, None] * np.pi / 16
_REACH = (np.cos(_ANGLES) * _CENTRE_X.ravel() + np.sin(_ANGLES) * _CENTRE_Y.ravel()).astype(np.float32)  # [D, H * W]
# Area of a shape of radius 1, and how far its centroid lies below its centre.
_AREA = {"circle": np.pi, "square": 3.24, "triangle": 1.995, "cross": 4 * 0.36 * (2 - 0.36)}
_SAG = {"circle": 0.0, "square": 0.0, "triangle": 0.8 / 3, "cross": 0.0}
_RADIUS_STEP = 0.25
_MARGIN = SIZE // 2 + 2


@dataclass(frozen=True, slots=True)
class Grade:
    """How far an aspect holds: Grade(score=0.93, passed=True); `score` in [0,1] is above .5 about when it passed."""

    score: float
    passed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """An object found in an image; lengths in pixels from the top left corner, `iou` of the best fit of every shape.

    `mask` [SIZE, SIZE] is what is seen of it, `area` counts that; `centroid` (x, y) and `bbox` (x0, y0, x1, y1) include
    what another object that lies on it hides.
    """

    colour: str
    mask: NDArray[np.bool_]
    area: int
    centroid: tuple[float, float]
    bbox: tuple[int, int, int, int]
    shape: str
    iou: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Each pixel as a mix of two colours: ends [H, W, 2], share of the second and RGB distance to the mix [H, W]."""

    ends: NDArray[np.int64]
    share: NDArray[np.float32]
    error: NDArray[np.float32]

    @property
    def label(self) -> NDArray[np.int64]:
        """The colour that covers most of each pixel, -1 for none, [H, W]."""
        return np.where(self.error > FAR, -1, np.where(self.share > 0.5, self.ends[..., 1], self.ends[..., 0]))

    def cover(self, colour: int) -> NDArray[np.float32]:
        """Share of each pixel that a colour covers, [H, W]."""
        first, second = self.ends[..., 0] == colour, self.ends[..., 1] == colour
        return np.where(second, self.share, 0) + np.where(first, 1 - self.share, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Blob:
    """A sizeable patch of one colour; `hidden` is what another blob on top of it covers."""

    colour: int
    mask: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    area: int

    @property
    def whole(self) -> NDArray[np.bool_]:
        return self.mask | self.hidden


def grade(image: NDArray[np.uint8], scene: Scene) -> dict[str, Grade]:
    """Grades of an image [SIZE, SIZE, 3] for every aspect of the scene.

    Raises: ValueError if the image is of another form, or both objects of the scene have one colour: the oracle finds
    objects by colour.
    """
    if scene.first.colour == scene.second.colour:
        raise ValueError(f"both objects of {scene} are {scene.first.colour}: the oracle tells objects apart by colour")
    reading = _read(image)
    blobs = _blobs(reading.label)
    first, second = _largest(blobs, scene.first.colour), _largest(blobs, scene.second.colour)
    grades = {"attribute": _attribute(reading, scene, blobs)}
    for aspect in scene.aspects[1:]:
        if first is None or second is None:
            grades[aspect] = Grade(0.0, False)
        elif aspect == "spatial":
            grades[aspect] = _spatial(scene.relation, first, second)
        else:
            grades[aspect] = _non_spatial(scene.relation, first, second, reading.cover(_LINE))
    return grades


def objects(image: NDArray[np.uint8]) -> list[Found]:
    """Every object of an image [SIZE, SIZE, 3], the largest first."""
    reading = _read(image)
    found = []
    for blob in _blobs(reading.label):
        iou = _fit(blob, reading.cover(blob.colour))
        ys, xs = np.nonzero(blob.whole)
        bbox = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        best = max(iou, key=lambda name: iou[name])
        found.append(Found(COLOURS[blob.colour], blob.mask, blob.area, _centroid(blob), bbox, best, iou))
    return found


def off_palette(image: NDArray[np.uint8]) -> float:
    """Share of the pixels that are no colour of the world, nor a mix of two that meet there: artefacts, in [0,1]."""
    return float((_read(image).error > OFF).mean())


def _read(image: NDArray[np.uint8]) -> _Reading:
    """Explains every pixel as the nearest colour, or as the nearest mix of two colours both seen within two pixels."""
    if image.dtype != np.uint8 or image.shape != (SIZE, SIZE, 3):
        raise ValueError(f"an image is {image.dtype} {list(image.shape)}: the oracle reads uint8 [{SIZE}, {SIZE}, 3]")
    pixels = image.astype(np.float32)
    to_node = ((pixels[..., None, :] - _NODES) ** 2).sum(-1)  # [H, W, K], squared
    nearest = to_node.argmin(-1)
    pure = (nearest[..., None] == np.arange(len(_NODES))) & (to_node < PURE**2)
    pure[..., _LINE] = True  # a line is so thin that it may have no pure pixel
    seen = np.flatnonzero(pure.any((0, 1)))
    near = ndimage.maximum_filter(pure[..., seen].view(np.uint8), size=(5, 5, 1)).view(bool)
    one, two = np.triu_indices(len(seen))  # [S], a colour with itself too: no mix
    start, along = _NODES[seen[one]], _NODES[seen[two]] - _NODES[seen[one]]
    length2 = np.maximum((along**2).sum(1), 1)
    dot = pixels @ along.T - (start * along).sum(1)  # [H, W, S]
    share = np.clip(dot / length2, 0, 1)
    error = to_node[..., seen[one]] - 2 * share * dot + share**2 * length2
    error[~(near[..., one] & near[..., two])] = np.inf
    best = error.argmin(-1)
    ends = np.stack([seen[one], seen[two]], -1)[best]
    share, error = (np.take_along_axis(values, best[..., None], -1)[..., 0] for values in (share, error))
    return _Reading(ends, share, np.sqrt(np.maximum(error, 0)))


def _blobs(label: NDArray[np.int64]) -> list[_Blob]:
    """Connected patches of one colour from SIZEABLE pixels on, the largest first."""
    patches: list[tuple[int, NDArray[np.bool_]]] = []
    counts = np.bincount(label.ravel() + 1, minlength=len(_NODES) + 1)[1:]
    for colour in np.flatnonzero(counts[: len(COLOURS)] >= SIZEABLE):
        parts = _parts(label == colour)
        sizes = np.bincount(parts.ravel())
        patches += [(int(colour), parts == part) for part in range(1, len(sizes)) if sizes[part] >= SIZEABLE]
    patches = _joined(patches)
    blobs = [_Blob(colour, mask, _hidden(colour, mask, patches), int(mask.sum())) for colour, mask in patches]
    return sorted(blobs, key=lambda blob: -blob.area)


def _hidden(colour: int, mask: NDArray[np.bool_], patches: list[tuple[int, NDArray[np.bool_]]]) -> NDArray[np.bool_]:
    """What patches of other colours hide of a patch: those that it surrounds."""
    others = [other for other_colour, other in patches if other_colour != colour]
    on_top = [other for other in others if _surrounds(mask, other)]
    return np.logical_or.reduce([np.zeros_like(mask), *on_top])


def _parts(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of the connected part that each pixel of a mask belongs to, from 1; 0 outside the mask."""
    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, _EIGHT, output=parts)
    return parts


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, _EIGHT, iterations=pixels), dtype=np.bool_)


def _surrounds(outer: NDArray[np.bool_], inner: NDArray[np.bool_]) -> bool:
    """Whether most of a patch lies in the hull of another, and nearly half of its rim is that other."""
    if _share_within(inner, _hull(outer)) < 0.6:
        return False
    rim = _grown(inner, 2) & ~inner
    return bool((rim & outer).sum() > 0.4 * rim.sum())


def _joined(patches: list[tuple[int, NDArray[np.bool_]]]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Patches of one colour become one where an object on top cuts them apart, as a circle does with a cross."""
    colours = [colour for colour, _ in patches]
    for under in {colour for colour in colours if colours.count(colour) > 1}:
        for cover in [mask for colour, mask in patches if colour != under]:
            ring = _grown(cover, 2)
            cut = [mask for colour, mask in patches if colour == under and (mask & ring).any()]
            if len(cut) > 1 and _share_within(cover, _hull(whole := np.logical_or.reduce(cut))) > 0.6:
                rest = [(colour, mask) for colour, mask in patches if colour != under or not (mask & ring).any()]
                return _joined([*rest, (under, whole)])
    return patches


def _hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels within the convex hull of a mask, to the precision of 32 directions."""
    limit = _REACH[:, mask.ravel()].max(1, keepdims=True)
    return (limit + 0.1 >= _REACH).all(0).reshape(SIZE, SIZE)


def _share_within(inner: NDArray[np.bool_], hull: NDArray[np.bool_]) -> float:
    return float((inner & hull).sum() / inner.sum())


def _centroid(blob: _Blob) -> tuple[float, float]:
    ys, xs = np.nonzero(blob.whole)
    return float(xs.mean()) + 0.5, float(ys.mean()) + 0.5


def _fit(blob: _Blob, cover: NDArray[np.float32]) -> dict[str, float]:
    """The best overlap of every shape with a blob over sizes and places; partly covered pixels count in part."""
    cover = np.where(_grown(blob.mask, 2), cover, 0)
    x, y = _centroid(blob)
    seen = _windows(cover, x, y)
    seen2 = float((cover**2).sum())
    free = None
    if blob.hidden.any():
        hidden = _grown(blob.hidden, 1)
        free = 1 - _windows(hidden.astype(np.float32), x, y)
        seen = seen * free
        seen2 = float((cover[~hidden] ** 2).sum())
    return {shape: _best_overlap(shape, blob, seen, seen2, free) for shape in SHAPES}


def _best_overlap(shape: str, blob: _Blob, seen: NDArray, seen2: float, free: NDArray | None) -> float:
    radius = np.sqrt(blob.whole.sum() / _AREA[shape])
    templates, size2 = _templates(shape, round(float(radius) / _RADIUS_STEP))
    shared = seen @ templates
    if free is not None:
        size2 = free @ templates**2
    return float((shared / (seen2 + size2 - shared)).max())


def _windows(values: NDArray[np.float32], x: float, y: float) -> NDArray[np.float32]:
    """An image moved so that (x, y) comes to its middle, give or take a pixel both ways, [9, H * W]."""
    padded = np.zeros((SIZE + 2 * _MARGIN,) * 2, np.float32)
    padded[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = values
    left, top = int(x) - SIZE // 2 + _MARGIN, int(y) - SIZE // 2 + _MARGIN
    moves = itertools.product((-1, 0, 1), repeat=2)
    return np.stack([padded[top + dy : top + dy + SIZE, left + dx : left + dx + SIZE].ravel() for dy, dx in moves])


@lru_cache(maxsize=256)
def _templates(shape: str, radius_steps: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Covers of a shape with its centroid at the middle or half a pixel off, [H * W, T], and their sums of squares [T].

    Five sizes, and edges one pixel wide, as they are drawn, and two, as blur leaves them.
    """
    radii = (radius_steps + np.arange(-2, 3)) * _RADIUS_STEP
    grid = np.array(list(itertools.product(radii, (0, 0.5), (0, 0.5), (1, 2))))
    radius, dx, dy, edge = (column[:, None, None] for column in grid.T)
    x, y = _CENTRE_X - SIZE / 2 - dx, _CENTRE_Y - SIZE / 2 - dy + _SAG[shape] * radius
    cover = np.clip(0.5 - shape_distance(shape, x, y, radius) / edge, 0, 1).reshape(len(grid), -1).astype(np.float32)
    return cover.T, (cover**2).sum(1)


def _largest(blobs: list[_Blob], colour: str) -> _Blob | None:
    return next((blob for blob in blobs if COLOURS[blob.colour] == colour), None)


def _attribute(reading: _Reading, scene: Scene, blobs: list[_Blob]) -> Grade:
    """Both objects are there in their shapes and nothing else is; the score is half the worse object, half the mean."""
    scores, passed, rest = [], True, list(blobs)
    for thing in (scene.first, scene.second):
        blob = _largest(blobs, thing.colour)
        if blob is None:
            scores.append(0.0)
            passed = False
            continue
        rest.remove(blob)
        iou = _fit(blob, reading.cover(blob.colour))
        ahead = iou[thing.shape] - max(value for shape, value in iou.items() if shape != thing.shape)
        passed &= ahead > 0 and iou[thing.shape] >= SHAPE_IOU
        scores.append(min(_ramp(ahead, 0, 0.06), _ramp(iou[thing.shape], SHAPE_IOU, 0.1)))
    alone = _ramp(-sum(blob.area for blob in rest), -SIZEABLE, SIZEABLE)
    return Grade(alone * (min(scores) + sum(scores) / 2) / 2, passed and not rest)


def _ramp(value: float, half: float, width: float) -> float:
    """0 at `half` - `width`, .5 at `half`, 1 at `half` + `width`, straight between."""
    return min(max(0.5 + (value - half) / (2 * width), 0.0), 1.0)


def _spatial(relation: str, first: _Blob, second: _Blob) -> Grade:
    """The first object's centre lies on its side of the second's, by SIDE pixels and more than it is off that axis."""
    (first_x, first_y), (second_x, second_y) = _centroid(first), _centroid(second)
    dx, dy = second_x - first_x, second_y - first_y
    ahead = {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation]
    aside = abs(dy if relation in ("left", "right") else dx)
    return Grade(min(_ramp(ahead, SIDE, SIDE), _ramp(ahead - aside, 0, SIDE)), ahead >= SIDE and ahead > aside)


def _non_spatial(relation: str, first: _Blob, second: _Blob, line: NDArray[np.float32]) -> Grade:
    """Inside: within the hull of the other and smaller. Touching: no gap. Tied: a gap that the line bridges."""
    hull = _hull(second.mask)
    within = _share_within(first.mask, hull)
    if relation == "inside":
        size = first.area / float(hull.sum())
        return Grade(min(_ramp(within, WITHIN, 0.25), _ramp(-size, -0.6, 0.2)), within >= WITHIN and size <= 0.6)
    overlap = max(within, _share_within(second.mask, _hull(first.mask)))
    beside = _ramp(-overlap, -0.5, 0.25)
    gap = _gap(first.mask, second.mask)
    if relation == "touching":
        return Grade(min(_ramp(-gap, -GAP, GAP), beside), gap <= GAP and overlap <= 0.5)
    left_open = _gap_past_line(first.mask, second.mask, line > 0.3)
    score = min(_ramp(gap, GAP, GAP / 2), _ramp(-left_open, -1, 1), beside)
    return Grade(score, gap > GAP and left_open <= 1 and overlap <= 0.5)


def _gap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Pixels between two masks; 0 where they are next to each other."""
    distance = np.asarray(ndimage.distance_transform_edt(~first))
    return max(float(distance[second].min()) - 1, 0.0)


def _gap_past_line(first: NDArray[np.bool_], second: NDArray[np.bool_], line: NDArray[np.bool_]) -> float:
    """Pixels between two masks that the line pieces attached to them do not bridge."""
    parts = _parts(first | second | line)
    at_first, at_second = (np.isin(parts, np.unique(parts[mask])) for mask in (first, second))
    if (at_first & at_second).any():
        return 0.0
    return _gap(at_first, at_second)
