"""A canvas: a picture described as a whole and in places, as Omost's language model writes it as a small program.

The program is read, never run: its syntax tree may hold nothing but calls of the two canvas methods with literals.
"""

import ast
import difflib
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import ImageColor

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.answer import fenced, final_text, in_ascii
from itercomp_rl.gallery.planning.layout import MAX_BOXES, check_text

GRID = 90  # a canvas is so many units high and wide
MAX_DISTANCE = 10**9  # to the viewer: only the order counts

LOCATIONS = {
    "in the center": (45, 45),
    "on the left": (15, 45),
    "on the right": (75, 45),
    "on the top": (45, 15),
    "on the bottom": (45, 75),
    "on the top-left": (15, 15),
    "on the top-right": (75, 15),
    "on the bottom-left": (15, 75),
    "on the bottom-right": (75, 75),
}  # centre, x and y
OFFSETS = {
    "no offset": (0, 0),
    "slightly to the left": (-10, 0),
    "slightly to the right": (10, 0),
    "slightly to the upper": (0, -10),
    "slightly to the lower": (0, 10),
    "slightly to the upper-left": (-10, -10),
    "slightly to the upper-right": (10, -10),
    "slightly to the lower-left": (-10, 10),
    "slightly to the lower-right": (10, 10),
}
AREAS = {
    "a small square area": (50, 50),
    "a small vertical area": (40, 60),
    "a small horizontal area": (60, 40),
    "a medium-sized square area": (60, 60),
    "a medium-sized vertical area": (50, 80),
    "a medium-sized horizontal area": (80, 50),
    "a large square area": (70, 70),
    "a large vertical area": (60, 90),
    "a large horizontal area": (90, 60),
}  # width and height

Rect = tuple[int, int, int, int]  # top, bottom, left, right on the grid
Colour = tuple[int, int, int]
_HEX = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing in one place.

    Part(rect=(20, 70, 0, 40), distance=1.0, description="a cup.", details=(), colour=(255, 0, 0))
    """

    rect: Rect
    distance: float
    description: str
    details: tuple[str, ...]
    colour: Colour

    def __post_init__(self) -> None:
        """Raises: PlanError if the place has no area on the grid or the distance is not above 0."""
        top, bottom, left, right = self.rect
        if not (0 <= top < bottom <= GRID and 0 <= left < right <= GRID):
            raise PlanError(
                f"{self.description!r} stands at {self.rect}: a place within the {GRID} x {GRID} grid is needed"
            )
        if not 0 < self.distance < math.inf:
            raise PlanError(f"the distance_to_viewer of {self.description!r} is {self.distance}: must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What holds in one place: sub-prompts `prefixes` before each of `suffixes`, in order."""

    rect: Rect
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The whole picture and what stands where.

    Canvas(prompt="a cup left of a plate", description="a cup left of a plate.", details=(), colour=(9, 9, 9), parts=())
    """

    prompt: str
    description: str
    details: tuple[str, ...]
    colour: Colour
    parts: tuple[Part, ...]  # in the order written

    def __post_init__(self) -> None:
        """Raises: PlanError if there are too many parts."""
        if len(self.parts) > MAX_BOXES:
            raise PlanError(f"the canvas of {self.prompt!r} has {len(self.parts)} parts; at most {MAX_BOXES} are taken")

    @property
    def far_first(self) -> tuple[Part, ...]:
        """Parts as painted: the farthest first, ties as written."""
        return tuple(sorted(self.parts, key=lambda part: -part.distance))

    def conditions(self) -> tuple[Condition, ...]:
        """The whole picture, then the parts, far first."""
        whole = Condition(rect=(0, GRID, 0, GRID), prefixes=(self.description,), suffixes=self.details)
        return (
            whole,
            *(
                Condition(rect=part.rect, prefixes=(self.description, part.description), suffixes=part.details)
                for part in self.far_first
            ),
        )


def place(location: str, offset: str, area: str) -> Rect:
    """Where a part stands; each name may be a near miss of a known one. Raises: PlanError if none is near."""
    (x, y), (dx, dy) = LOCATIONS[nearest(location, LOCATIONS)], OFFSETS[nearest(offset, OFFSETS)]
    width, height = AREAS[nearest(area, AREAS)]
    x, y = x + dx, y + dy
    top, left = y - height // 2, x - width // 2
    return max(0, top), min(GRID, top + height), max(0, left), min(GRID, left + width)


def nearest(name: str, known: Mapping[str, object]) -> str:
    """The known name closest to this one. Raises: PlanError if none is close."""
    lowered = name.lower().strip()
    found = difflib.get_close_matches(lowered, list(known), n=1, cutoff=0.5)
    if not found:
        raise PlanError(f"{name[:80]!r} is none of the canvas's words: {', '.join(list(known)[:9])}")
    return found[0]


def colour_of(name: str) -> Colour:
    """An HTML colour by its name, a near miss of one, or #rrggbb. Raises: PlanError."""
    if _HEX.fullmatch(name.strip()):
        red, green, blue = ImageColor.getrgb(name.strip())[:3]
        return red, green, blue
    red, green, blue = ImageColor.getrgb(nearest(name, ImageColor.colormap))[:3]
    return red, green, blue


def sentence(text: str) -> str:
    """A sub-prompt: trimmed of blanks, commas and stops, with one full stop at its end."""
    return text.strip(" ,.\t\n") + "."


# What a program may call, with the arguments in order: name -> (type it must be of, whether it may be left out).
_TEXT, _TEXTS, _NUMBER = "a string", "a list of strings", f"a number below {MAX_DISTANCE}"
_GLOBAL = {
    "description": (_TEXT, False),
    "detailed_descriptions": (_TEXTS, True),
    "tags": (_TEXT, True),
    "HTML_web_color_name": (_TEXT, True),
}
_LOCAL = {
    "location": (_TEXT, False),
    "offset": (_TEXT, False),
    "area": (_TEXT, False),
    "distance_to_viewer": (_NUMBER, False),
    "description": (_TEXT, False),
    "detailed_descriptions": (_TEXTS, True),
    "tags": (_TEXT, True),
    "atmosphere": (_TEXT, True),
    "style": (_TEXT, True),
    "quality_meta": (_TEXT, True),
    "HTML_web_color_name": (_TEXT, True),
}
_DEFAULT_COLOUR = "gray"
Literal = str | float | list[str]


def parse_canvas(prompt: str, answer: str) -> Canvas:
    """The canvas that a language model's program describes.

    Of several programs the last counts.
    Raises: PlanError naming the offending line if the program holds anything else than canvas calls with literals.
    Source: Omost (lllyasviel/Omost), its canvas vocabulary.
    """
    code = _program(final_text(answer))
    tree = _parsed(code)
    lines, whole, parts = code.splitlines(), None, []
    for statement in tree.body:
        if _is_fresh_canvas(statement):
            whole, parts = None, []
            continue
        method, arguments = _read_call(statement, lines)
        if method == "set_global_description":
            if whole is not None:
                raise _refused(statement, lines, "one canvas has two global descriptions")
            whole = arguments
        else:
            parts.append(arguments)
    if whole is None:
        raise PlanError(f"the canvas of {prompt[:80]!r} has no set_global_description call")
    return Canvas(
        prompt=prompt,
        description=sentence(_text(whole, "description")),
        details=_sentences(whole),
        colour=colour_of(_text(whole, "HTML_web_color_name") or _DEFAULT_COLOUR),
        parts=tuple(_part(arguments) for arguments in parts),
    )


def _program(text: str) -> str:
    """The last fenced program, which corrects those before it; the whole text where nothing is fenced."""
    blocks = fenced(text)
    programs = [block for block in blocks if re.search(r"\bcanvas\b", block)]
    return textwrap.dedent((programs or blocks or [text])[-1])


def _parsed(code: str) -> ast.Module:
    """The syntax tree; typographic quotation marks and full-width punctuation count where the code is no Python."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        try:
            return ast.parse(in_ascii(code))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise PlanError(f"the canvas program is not Python ({error}): {_line_of(error, code)!r}") from error


def _line_of(error: Exception, code: str) -> str:
    lines = code.splitlines()
    number = error.lineno if isinstance(error, SyntaxError) else None
    return lines[number - 1].strip()[:120] if number and number <= len(lines) else code[:120]


def _is_fresh_canvas(statement: ast.stmt) -> bool:
    """`canvas = Canvas()`, which every program may begin with."""
    if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)):
        return False
    call = statement.value
    names = [ast.unparse(target) for target in statement.targets] if len(statement.targets) == 1 else []
    is_canvas = isinstance(call.func, ast.Name) and call.func.id == "Canvas"
    return names == ["canvas"] and is_canvas and not call.args and not call.keywords


def _read_call(statement: ast.stmt, lines: Sequence[str]) -> tuple[str, dict[str, Literal]]:
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "canvas"
        and call.func.attr in ("set_global_description", "add_local_description")
    ):
        raise _refused(statement, lines, "only canvas.set_global_description and canvas.add_local_description are read")
    known = _GLOBAL if call.func.attr == "set_global_description" else _LOCAL
    if len(call.args) > len(known):
        raise _refused(call, lines, f"at most {len(known)} arguments are taken")
    given: dict[str, ast.expr] = dict(zip(known, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg not in known or keyword.arg in given:
            raise _refused(keyword, lines, f"{keyword.arg or '**'} is no argument of {call.func.attr}, or given twice")
        given[keyword.arg] = keyword.value
    if missing := [name for name, (_, is_optional) in known.items() if not is_optional and name not in given]:
        raise _refused(call, lines, f"{call.func.attr} needs {', '.join(missing)}")
    return call.func.attr, {name: _literal(node, known[name][0], lines) for name, node in given.items()}


def _literal(node: ast.expr, wanted: str, lines: Sequence[str]) -> Literal:
    value = node.value if isinstance(node, ast.Constant) else None
    if wanted == _TEXT and isinstance(value, str):
        return check_text(value)
    if wanted == _NUMBER and isinstance(value, int | float) and not isinstance(value, bool) and value < MAX_DISTANCE:
        return float(value)
    if wanted == _TEXTS and isinstance(node, ast.List | ast.Tuple):
        texts = [item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if len(texts) == len(node.elts):
            return [check_text(text) for text in texts]
    raise _refused(node, lines, f"{wanted} is needed, written out")


def _refused(node: ast.AST, lines: Sequence[str], reason: str) -> PlanError:
    number = getattr(node, "lineno", 1)
    return PlanError(f"the canvas program is refused at line {number}, {lines[number - 1].strip()[:120]!r}: {reason}")


def _text(arguments: Mapping[str, Literal], name: str) -> str:
    value = arguments.get(name, "")
    assert isinstance(value, str), f"{name} was checked to be a string"
    return value


def _sentences(arguments: Mapping[str, Literal]) -> tuple[str, ...]:
    details = arguments.get("detailed_descriptions", [])
    assert isinstance(details, list), "detailed_descriptions was checked to be a list"
    rest = [_text(arguments, name) for name in ("tags", "atmosphere", "style", "quality_meta") if name in arguments]
    return tuple(sentence(text) for text in [*details, *rest])


def _part(arguments: Mapping[str, Literal]) -> Part:
    distance = arguments["distance_to_viewer"]
    assert isinstance(distance, float), "distance_to_viewer was checked to be a number"
    return Part(
        rect=place(*(_text(arguments, name) for name in ("location", "offset", "area"))),
        distance=distance,
        description=sentence(_text(arguments, "description")),
        details=_sentences(arguments),
        colour=colour_of(_text(arguments, "HTML_web_color_name") or _DEFAULT_COLOUR),
    )


def sub_prompts(condition: Condition, count: Callable[[str], int], room: int) -> list[str]:
    """Texts of at most `room` tokens by `count` (without marks), each the prefixes and as many suffixes as still fit.

    Where the prefixes alone do not fit, the particular one stands without the general one, which the whole picture is
    told anyway. What is longer on its own is left to be cut by the text encoder.
    """
    prefixes = list(condition.prefixes)
    while len(prefixes) > 1 and sum(map(count, prefixes)) > room:
        prefixes.pop(0)
    prefix, space = " ".join(prefixes), room - sum(map(count, prefixes))
    bags: list[list[str]] = [[]]
    used = 0
    for suffix in condition.suffixes:
        length = count(suffix)
        if bags[-1] and used + length > space:
            bags.append([])
            used = 0
        bags[-1].append(suffix)
        used += length
    return [" ".join([prefix, *bag]) for bag in bags]
