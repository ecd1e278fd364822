"""A prompt's atoms: the single statements that an image of it must show, each of which is one yes/no question.

By rule, with the parser of the rule planner, or from a language model's answer, which is read as data.
"""

import json
import re
from dataclasses import dataclass

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.answer import final_text
from itercomp_rl.gallery.planning.objects import COUNTS, Object, parse_prompt


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KINDS = ("object", "attribute", "count", "relation", "action")
# The kinds of atoms that each aspect's score is made of. An object that has attributes is asked about together with
# them, as one atom of kind attribute: which thing is red is what binding is about.
KINDS_OF_ASPECT = {
    "attribute": ("object", "attribute"),
    "spatial": ("relation", "count"),
    "non_spatial": ("action",),
}
MAX_OBJECTS = 9  # as in the rule planner: prompts that name more are rare, and every atom costs a question per image
MAX_ATOMS = 24  # of a language model's answer
MAX_CHARACTERS = 300  # of one such atom

_PLACES = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
    "front": "in front of",
    "behind": "behind",
    "inside": "inside",
    "near": "next to",
}
_CONTACT = re.compile(
    r"\b(?:inside|within|in the (?:middle|cent(?:er|re)) of|touch(?:es|ing)|(?:connected|tied|attached) to)\b", re.I
)
_OPENING = re.compile(r"^(?:there (?:is|are) |(?:a|the) (?:picture|photo|image|painting) of )", re.I)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
_DETERMINERS = _words(
    "a an the this that these those his her their its my our your some several many another each every both"
)
# Words that say nothing happens: what is left of a prompt besides its objects and these is an action.
_FUNCTION_WORDS = _DETERMINERS | _words(
    """and or but with without of to from in into on onto upon over at by for as is are was were be been being there
    here it they he she left right top bottom side front behind hidden above below under underneath beneath next near
    beside alongside close between among through across along around picture photo image painting view hand"""
)
_MODEL_KINDS = dict(zip(("objects", "attributes", "counts", "relations", "actions"), KINDS, strict=True))

INSTRUCTION = """\
You check pictures against descriptions. List what a picture of the user's description must show, as single statements
that can each be answered by yes or no. Answer with one JSON object and nothing else:

{"objects": [], "attributes": [], "counts": [], "relations": [], "actions": []}

objects: things without any stated quality, such as "a dog". attributes: things together with their colour, shape,
texture or material, such as "a red cup"; such a thing is not listed under objects again. counts: numbers above one,
such as "three red cups". relations: where one thing is in respect of another, such as "a red cup to the left of a white
plate". actions: what happens or holds between things otherwise, such as "a girl feeding a dog". Use the description's
own words, add nothing that it does not state, and leave a list empty where it states nothing of the kind.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """Atom(kind="relation", text="a red circle to the left of a blue square"); kind: one of KINDS."""

    kind: str
    text: str


def atoms_by_rule(prompt: str) -> tuple[Atom, ...]:
    """The atoms of a prompt, each once, in the order of KINDS' aspects; none where the rules recognise no object."""
    found = parse_prompt(prompt)
    objects = found.objects[:MAX_OBJECTS]
    atoms = [_object_atom(thing) for thing in objects]
    atoms += [Atom(kind="count", text=thing.phrase) for thing in objects if _is_counted(thing)]
    for relation in found.relations:
        if max(relation.first, relation.second) < len(objects):
            first, second = (objects[index].phrase for index in (relation.first, relation.second))
            atoms.append(Atom(kind="relation", text=f"{first} {_PLACES[relation.kind]} {second}"))
    if objects and _has_action(prompt, objects):
        atoms.append(Atom(kind="action", text=_plain(prompt)))
    return tuple(dict.fromkeys(atoms))


def atoms_of_answer(answer: str) -> tuple[Atom, ...]:
    """The atoms in a language model's answer to INSTRUCTION.

    Raises: PlanError if it is not of the form asked for, lists nothing, or is longer than any prompt needs.
    """
    text = final_text(answer)
    start, end = text.find("{"), text.rfind("}")
    try:
        tree = json.loads(text[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the atoms are no JSON object ({error}): {text[:120]!r}") from error
    if not isinstance(tree, dict) or set(tree) - set(_MODEL_KINDS):
        raise PlanError(f"the atoms are no object of {', '.join(_MODEL_KINDS)}: {text[:120]!r}")
    atoms = [
        Atom(kind=kind, text=_statement(item)) for name, kind in _MODEL_KINDS.items() for item in _list(tree, name)
    ]
    if not 1 <= len(atoms) <= MAX_ATOMS:
        raise PlanError(f"the answer lists {len(atoms)} atoms: 1 to {MAX_ATOMS} are read")
    return tuple(dict.fromkeys(atoms))


def _object_atom(thing: Object) -> Atom:
    words = thing.phrase.split()
    if _is_counted(thing):
        words = words[1:]
    named = words[1:] if words[0].lower() in _DETERMINERS else words
    return Atom(kind="attribute" if len(named) > 1 else "object", text=" ".join(words))


def _is_counted(thing: Object) -> bool:
    first, _, rest = thing.phrase.partition(" ")
    return bool(rest) and (first.lower() in COUNTS or first.isdecimal())


def _has_action(prompt: str, objects: tuple[Object, ...]) -> bool:
    """Whether the prompt says more than which objects there are and where: something happens, or they touch."""
    if _CONTACT.search(prompt):
        return True
    left = [word.lower() for word in _WORD.findall(prompt)]
    for thing in objects:
        for word in _WORD.findall(thing.phrase.lower()):
            if word in left:
                left.remove(word)
    return any(word not in _FUNCTION_WORDS for word in left)


def _plain(prompt: str) -> str:
    """The prompt in one line without an opening that asks for a picture, and without its full stop."""
    return _OPENING.sub("", " ".join(prompt.split())).rstrip(".!")


def _list(tree: dict[str, object], name: str) -> list[object]:
    found = tree.get(name, [])
    if not isinstance(found, list):
        raise PlanError(f"{name} of the atoms are a {type(found).__name__}: a list is needed")
    return found


def _statement(item: object) -> str:
    text = " ".join(item.split()).rstrip(".?") if isinstance(item, str) else ""
    if not text or len(text) > MAX_CHARACTERS or not text.isprintable():
        raise PlanError(f"an atom is {item!r:.120}: a text of at most {MAX_CHARACTERS} characters is needed")
    return text
