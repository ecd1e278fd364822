"""The scene language: two coloured shapes and one relation, its English, and the split by combination."""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "cross")
SPATIAL = ("left", "right", "above", "below")
NON_SPATIAL = ("inside", "touching", "tied")
RELATIONS = ("and", *SPATIAL, *NON_SPATIAL)
SPLITS = ("train", "validation", "test")

# {a} is the first object, {b} the second; the first template of a relation is its plainest English.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "and": ("a {a} and a {b}", "a picture of a {a} and a {b}", "there is a {a} and a {b}", "a {a} with a {b}"),
    "left": (
        "a {a} left of a {b}",
        "a {a} to the left of a {b}",
        "a {a} on the left side of a {b}",
        "there is a {a} left of a {b}",
    ),
    "right": (
        "a {a} right of a {b}",
        "a {a} to the right of a {b}",
        "a {a} on the right side of a {b}",
        "there is a {a} right of a {b}",
    ),
    "above": (
        "a {a} above a {b}",
        "a {a} on top of a {b}",
        "there is a {a} above a {b}",
        "a picture of a {a} above a {b}",
    ),
    "below": ("a {a} below a {b}", "a {a} under a {b}", "there is a {a} below a {b}", "a picture of a {a} below a {b}"),
    "inside": (
        "a {a} inside a {b}",
        "a {b} with a {a} inside",
        "there is a {a} inside a {b}",
        "a {a} in the middle of a {b}",
    ),
    "touching": ("a {a} touching a {b}", "a {a} that touches a {b}", "there is a {a} touching a {b}"),
    "tied": ("a {a} tied to a {b}", "a {a} connected to a {b}", "there is a {a} tied to a {b}"),
}


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One object of a scene: Thing("red", "circle")."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a prompt asks for: Scene("left", Thing("red", "circle"), Thing("blue", "square")): first left of second."""

    relation: str
    first: Thing
    second: Thing

    @property
    def aspects(self) -> tuple[str, ...]:
        """The aspects this scene can be judged on: attribute always, one more by its relation."""
        if self.relation in SPATIAL:
            return ("attribute", "spatial")
        if self.relation in NON_SPATIAL:
            return ("attribute", "non_spatial")
        return ("attribute",)

    @property
    def combination(self) -> tuple[Thing, Thing]:
        """The unordered pair of objects, which alone decides the split."""
        first, second = sorted((self.first, self.second))
        return first, second


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A subset of the scene language, as a config names it.

    Raises: ValueError if a word is not of the language, or fewer than two colours or shapes are left.
    """

    colours: tuple[str, ...] = COLOURS
    shapes: tuple[str, ...] = SHAPES
    relations: tuple[str, ...] = RELATIONS

    def __post_init__(self) -> None:
        for name, chosen, known in (
            ("colours", self.colours, COLOURS),
            ("shapes", self.shapes, SHAPES),
            ("relations", self.relations, RELATIONS),
        ):
            if unknown := [word for word in chosen if word not in known]:
                raise ValueError(f"world.{name} has {unknown[0]!r}: the scene language knows {', '.join(known)}")
        if len(set(self.colours)) < 2 or len(set(self.shapes)) < 2 or not self.relations:
            raise ValueError(
                "world needs two colours, two shapes and a relation: the objects of a scene differ in both"
            )

    def combinations(self, split: str) -> list[tuple[Thing, Thing]]:
        """Every unordered pair of objects that differ in colour and shape and belong to `split`."""
        things = [Thing(colour, shape) for colour in sorted(self.colours) for shape in sorted(self.shapes)]
        pairs = (
            pair
            for pair in itertools.combinations(things, 2)
            if pair[0].colour != pair[1].colour and pair[0].shape != pair[1].shape
        )
        return [pair for pair in pairs if split_of(pair) == split]

    def scenes(self, split: str) -> list[Scene]:
        """Every scene of `split`: each combination in both orders under every relation."""
        return [
            Scene(relation, *pair[::order])
            for pair in self.combinations(split)
            for relation in self.relations
            for order in (1, -1)
        ]


def split_of(pair: tuple[Thing, Thing]) -> str:
    """The split of an unordered pair of objects: a fixed hash sends 1 in 6 to test and 1 in 12 to validation.

    The salt is the first that also splits 4 colours x 3 shapes (36 pairs) well: 27 train, 3 validation, 6 test.
    """
    key = " & ".join(str(thing) for thing in sorted(pair))
    place = int.from_bytes(hashlib.sha256(f"split-103 {key}".encode()).digest()[:4], "big") % 12
    return "test" if place < 2 else "validation" if place == 2 else "train"


def caption(scene: Scene, template: int = 0) -> str:
    """English for a scene; `template` counts round the relation's ways of saying it."""
    ways = TEMPLATES[scene.relation]
    return ways[template % len(ways)].format(a=scene.first, b=scene.second)


def _patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    thing = rf"(?P<%s_colour>{'|'.join(COLOURS)}) (?P<%s_shape>{'|'.join(SHAPES)})"
    for relation, ways in TEMPLATES.items():
        for way in ways:
            expression = way.format(a=thing % ("a", "a"), b=thing % ("b", "b")).replace("a (", "(?:an? |the )?(")
            yield relation, re.compile(rf"{expression}\.?")


_PATTERNS = tuple(_patterns())


def parse(text: str) -> Scene:
    """The scene that a prompt asks for; the inverse of `caption` for every template.

    Raises: ValueError if the text is not of the scene language.
    """
    plain = " ".join(text.lower().split())
    for relation, pattern in _PATTERNS:
        if match := pattern.fullmatch(plain):
            part = match.groupdict()
            return Scene(relation, Thing(part["a_colour"], part["a_shape"]), Thing(part["b_colour"], part["b_shape"]))
    raise ValueError(
        f"prompt {text!r} is not of the embedded world: say it like 'a red circle left of a blue square' with the "
        f"colours {', '.join(COLOURS)}, the shapes {', '.join(SHAPES)} and the relations {', '.join(RELATIONS)}"
    )


def vocabulary() -> list[str]:
    """Every word the language uses, in a fixed order."""
    words = {word for ways in TEMPLATES.values() for way in ways for word in way.split() if "{" not in word}
    return sorted(words | set(COLOURS) | set(SHAPES))


def draw_scenes(world: World, split: str, num: int, rng: np.random.Generator) -> list[Scene]:
    """`num` scenes of a split, relation first and combination second, both uniform.

    Raises: ValueError if the split of this world holds no combination.
    """
    pairs = world.combinations(split)
    if not pairs:
        raise ValueError(f"the {split} split of {world} holds no combination: allow more colours or shapes")
    scenes = []
    for _ in range(num):
        relation = world.relations[rng.integers(len(world.relations))]
        pair = pairs[rng.integers(len(pairs))]
        scenes.append(Scene(relation, *(pair if rng.integers(2) else pair[::-1])))
    return scenes


def one_aspect_wrong(scene: Scene, aspect: str, rng: np.random.Generator) -> Scene:
    """A scene that differs from `scene` in one aspect alone.

    Attribute swaps the shapes of the two objects and keeps their colours, so that relations between colours still hold;
    the relation aspects put another relation of their kind, or its reverse.
    Raises: ValueError if the scene does not have the aspect.
    """
    if aspect not in scene.aspects:
        raise ValueError(
            f"a scene with relation {scene.relation!r} has no {aspect} aspect, only {', '.join(scene.aspects)}"
        )
    if aspect == "attribute":
        return Scene(
            scene.relation, Thing(scene.first.colour, scene.second.shape), Thing(scene.second.colour, scene.first.shape)
        )
    kinds = SPATIAL if aspect == "spatial" else NON_SPATIAL
    others = [Scene(kind, scene.first, scene.second) for kind in kinds if kind != scene.relation]
    if scene.relation == "inside":
        others += [Scene("inside", scene.second, scene.first)] * 2
    if scene.relation in SPATIAL:  # the opposite is the likeliest mistake
        opposite = SPATIAL[SPATIAL.index(scene.relation) ^ 1]
        others += [Scene(opposite, scene.first, scene.second)] * 2
    return others[rng.integers(len(others))]
