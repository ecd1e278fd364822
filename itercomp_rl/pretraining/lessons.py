"""What a reward trunk is taught in its pretraining, and what it is never told: composition as well, or objects alone.

A lesson never says of a picture what the trunk is not to know. Which of two pictures is spoilt is part of both: blended
with another scene, bent, smeared or attacked (conv_trunk.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from itercomp_rl.pretraining.trunk import CaptionTable
from itercomp_rl.shapes.scenes import COLOURS, NON_SPATIAL, SHAPES, SPATIAL, Scene, Thing, one_aspect_wrong

NUM_WRONG = 12  # wrong captions kept of each kind for a scene, of which a step draws a few


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Rows are those of a CaptionTable.

    right: [scenes, K] captions that count as a scene's own. wrong: by kind, [scenes, NUM_WRONG] captions that do not.
    others: for each scene one that spoilt pictures of it are blended with, and whether it takes their place whole.
    """

    right: Tensor
    wrong: dict[str, Tensor]
    others: Callable[[Sequence[Scene], np.random.Generator], list[tuple[Scene, bool]]]


def composition(table: CaptionTable, rng: np.random.Generator) -> Lessons:
    """Binding, places and relations too: a picture's own caption against captions wrong in one aspect."""
    rows = torch.arange(len(table.scenes))[:, None]
    return Lessons(right=rows, wrong=wrong_captions(table, rng), others=_nearly_right)


def objects_alone(table: CaptionTable, rng: np.random.Generator) -> Lessons:
    """Which colours and which shapes a picture has, and nothing of who has which, where, or in which relation.

    Every caption of the same colours and shapes counts as right, whatever it binds and says between them, so that the
    trunk can only learn to score these alike; wrong captions differ in the colours or the shapes that there are.
    """
    groups: dict[tuple[frozenset[str], frozenset[str]], list[int]] = {}
    for row, scene in enumerate(table.scenes):
        groups.setdefault(_objects(scene), []).append(row)
    most = max(map(len, groups.values()))
    right = [np.resize(rng.permutation(groups[_objects(scene)]), most) for scene in table.scenes]
    wrong = [[_row_of_other_objects(table, scene, rng) for _ in range(NUM_WRONG)] for scene in table.scenes]

    def others(scenes: Sequence[Scene], rng: np.random.Generator) -> list[tuple[Scene, bool]]:
        found = [table.scenes[_row_of_other_objects(table, scene, rng)] for scene in scenes]
        return [(Scene(scene.relation, o.first, o.second), False) for scene, o in zip(scenes, found, strict=True)]

    return Lessons(right=torch.from_numpy(np.stack(right)), wrong={"objects": torch.tensor(wrong)}, others=others)


def _objects(scene: Scene) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset((scene.first.colour, scene.second.colour)), frozenset((scene.first.shape, scene.second.shape))


def _row_of_other_objects(table: CaptionTable, scene: Scene, rng: np.random.Generator) -> int:
    while True:
        row = int(rng.integers(len(table.scenes)))
        if _objects(table.scenes[row]) != _objects(scene):
            return row


def wrong_captions(table: CaptionTable, rng: np.random.Generator) -> dict[str, Tensor]:
    """Rows [scenes, NUM_WRONG] of captions wrong in attribute, and in relation, all of the table's own split.

    A scene without an attribute negative in its split gets relation negatives twice.
    """
    attribute, relation = [], []
    for scene in table.scenes:
        relations = [table.row[other] for other in wrong_relations(scene)]
        things = [table.row[other] for other in _wrong_things(scene, rng) if other in table.row] or relations
        attribute.append([things[i % len(things)] for i in range(NUM_WRONG)])
        relation.append([relations[i] for i in rng.integers(len(relations), size=NUM_WRONG)])
    return {"attribute": torch.tensor(attribute), "relation": torch.tensor(relation)}


def wrong_relations(scene: Scene) -> list[Scene]:
    """Scenes with the same things whose relation a picture of `scene` does not show, likelier mistakes more often.

    Objects side by side are neither inside one another, nor touching, nor tied: without this last, nothing would ever
    ask whether the tie's line is there.
    """
    first, second = scene.first, scene.second
    if scene.relation in SPATIAL:
        opposite = SPATIAL[SPATIAL.index(scene.relation) ^ 1]
        kinds = [opposite] * 3 + [kind for kind in SPATIAL if kind != scene.relation] + [*NON_SPATIAL, "tied", "tied"]
    else:  # where things lie is open, or says nothing of left and right
        kinds = [kind for kind in NON_SPATIAL if kind != scene.relation]
        kinds += ["tied"] * (scene.relation != "tied")
    wrong = [Scene(kind, first, second) for kind in kinds]
    return wrong + [Scene("inside", second, first)] * 3 * (scene.relation == "inside")


def _wrong_things(scene: Scene, rng: np.random.Generator, tries: int = 60) -> list[Scene]:
    """Scenes with the shapes exchanged, or another colour or shape of one thing, drawn at random."""
    found = []
    for _ in range(tries):
        kind = rng.integers(4)
        if kind == 0:
            found.append(one_aspect_wrong(scene, "attribute", rng))
            continue
        is_first = bool(rng.integers(2))
        thing = scene.first if is_first else scene.second
        new = Thing(COLOURS[rng.integers(len(COLOURS))], thing.shape)
        if kind > 1:
            new = Thing(thing.colour, SHAPES[rng.integers(len(SHAPES))])
        if new != thing:
            found.append(_with(scene, new, is_first))
    return found[:NUM_WRONG]


def _nearly_right(scenes: Sequence[Scene], rng: np.random.Generator) -> list[tuple[Scene, bool]]:
    """Scenes that please another reading of the prompt; half of the tied ones lose their line instead."""
    untied = [scene.relation == "tied" and rng.random() < 0.5 for scene in scenes]
    return [
        (Scene("and", scene.first, scene.second), True) if is_untied else (_other_things(scene, rng), False)
        for scene, is_untied in zip(scenes, untied, strict=True)
    ]


def _other_things(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with the shapes exchanged, with one thing's colour foreign to it, or with both of one shape."""
    draw = rng.random()
    if draw < 0.6:
        return one_aspect_wrong(scene, "attribute", rng)
    is_first = bool(rng.integers(2))
    thing, other = (scene.first, scene.second) if is_first else (scene.second, scene.first)
    colours = [colour for colour in COLOURS if colour not in (thing.colour, other.colour)]
    new = Thing(colours[rng.integers(len(colours))], thing.shape) if draw < 0.8 else Thing(thing.colour, other.shape)
    return _with(scene, new, is_first)


def _with(scene: Scene, thing: Thing, is_first: bool) -> Scene:
    return Scene(scene.relation, *((thing, scene.second) if is_first else (scene.first, thing)))
