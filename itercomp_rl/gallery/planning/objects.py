"""The objects that a prompt names and how they stand to each other, by rules about English words; no model is asked.

Made for prompts like those of T2I-CompBench: short statements of coloured, shaped or counted things and relations.
"""

import re
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COUNTS = {
    name: number
    for number, name in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), start=1
    )
}
_DETERMINERS = _words(
    "a an the this that these those his her their its my our your some several many another each every both"
)
# Longest first, as the first that matches counts. Each says how the object before it stands to the object after it.
_RELATIONS = (
    (r"(?:(?:on|to|at) )+(?:the )?left(?:-hand)?(?: side)? of|left of", "left"),
    (r"(?:(?:on|to|at) )+(?:the )?right(?:-hand)?(?: side)? of|right of", "right"),
    (r"(?:(?:on|at) )+(?:the )?bottom of|below|beneath|underneath|under", "below"),
    (r"(?:(?:on|at) )*(?:the )?top of|above|atop", "above"),
    (r"in front of", "front"),
    (r"(?:partially |partly )?hidden by|behind", "behind"),
    (r"in the middle of|in the cent(?:er|re) of|inside(?: of)?|within", "inside"),
    (r"(?:(?:on|at|to) )+(?:the )?side of|next to|near(?: to)?|beside|alongside|close to|by", "near"),
    (r"(?:that )?touch(?:es|ing)|connected to|tied to|attached to", "near"),
    (r"onto|on|upon|over", "above"),
)
_ABSTRACT = _words("side left right top bottom front middle center centre picture photo image view")
_BREAKS = _words(
    """and or but with without while as because so than then to for from of at into in out off up down through across
    along around against among between before after during until about toward towards who whom which whose where when
    that is are was were be been being am has have had do does did could will would may might must shall should it
    they them he she him himself herself themselves itself i we us you there here not no very too also just only
    what how why if over like past via per back away together"""
)
_VERBS = _words(
    """lay lays lie lies sat sits sit stood stands stand hung hangs hang ran runs run rose rises rise held holds hold
    flew flies fly swam swims swim sank sinks grew grows grow made makes make gave gives give took takes take sped
    speeds blew blows shone shines shine fell falls fall fed feeds wore wears wear rode rides ride drove drives
    drive ate eats eat drank drinks drink sang sings sing read reads wrote writes write caught catches catch threw
    throws throw kept keeps keep led leads lead left met meets meet caused casts cast cuts cut set sets rests rest
    leans lean floats float provides provide contains contain covers cover looks look plays play swings stick sticks
    adds add boil boils decorate decorates mix mixes jot jots carries carry creates create brings bring dances dance
    walks walk waits wait warms cools sways snaked strode spun wound bit dug lit slid slept spread struck swept wept
    woke won"""
)
# Verbs that are as often things; at the end of a statement, or after a mere determiner, they are.
_THINGS_TOO = _words(
    "stand stands set sets sink sinks fly flies cover covers cut swing swings stick sticks rest drink drinks"
)
# Words that look like verb forms and are things or qualities.
_NOT_VERBS = _words(
    """ring earring string wing king ceiling building painting bed shed seed sled thing swing spring lightning wedding
    pudding stocking clothing evening morning bedding railing wiring crossing landing filling topping dressing icing
    frosting sapling seedling duckling flooring seating clothing parking red"""
)
COLOURS = _words(
    "red green blue yellow orange purple pink brown black white gray grey silver gold golden beige cyan tan"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]", re.UNICODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """Object(phrase="three red cups", noun="cups", count=3)."""

    phrase: str  # as in the prompt, without a leading "the"
    noun: str  # its last word
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Object `first` stands `kind` of object `second`: left, right, above, below, front, behind, inside, near."""

    first: int
    kind: str
    second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a prompt names."""

    objects: tuple[Object, ...]
    relations: tuple[Relation, ...]


def parse_prompt(prompt: str) -> Parsed:
    """Objects in the order named, and the relations between neighbours; both may be empty."""
    text = re.sub(r"\b(?:a|the) (?:picture|photo|image|painting) of\b", " ", " ".join(prompt.split()), flags=re.I)
    pieces, kinds = _split(text)
    objects: list[Object] = []
    relations: list[Relation] = []
    for number, piece in enumerate(pieces):
        found = _objects(piece)
        if number and found and objects:
            relations.append(Relation(first=len(objects) - 1, kind=kinds[number - 1], second=len(objects)))
        objects += found
    inside = re.search(r"\bwith .* inside\W*$", text, flags=re.I)  # "a box with a cat inside"
    if inside and len(objects) == 2:
        relations = [Relation(first=1, kind="inside", second=0)]
    return Parsed(objects=tuple(objects), relations=tuple(relations))


_SPLITTER = re.compile("|".join(f"(?P<r{i}>\\b(?:{words})\\b)" for i, (words, _) in enumerate(_RELATIONS)), re.I)


def _split(text: str) -> tuple[list[str], list[str]]:
    """The text between relations, and the relations."""
    pieces, kinds, start = [], [], 0
    for match in _SPLITTER.finditer(text):
        assert match.lastgroup is not None, "every alternative is a named group"
        pieces.append(text[start : match.start()])
        kinds.append(_RELATIONS[int(match.lastgroup[1:])][1])
        start = match.end()
    return [*pieces, text[start:]], kinds


def _objects(piece: str) -> list[Object]:
    words = _WORD.findall(piece)
    groups: list[list[str]] = [[]]
    bare = [True]  # a phrase without determiner may stand here: at the start, after "and", a comma or a relation
    after: list[str] = []  # the word that ended the group
    for place, word in enumerate(words):
        lowered = word.lower()
        if lowered == "and" and _joins_colours(words, place):
            groups[-1].append(word)
        elif not word[0].isalnum() and _is_between_adjectives(words, place):
            continue
        elif lowered in _BREAKS or not word[0].isalnum():
            groups.append([])
            bare.append(lowered in _BEFORE_BARE)
            after.append(lowered)
        elif lowered in _DETERMINERS or lowered in COUNTS or lowered.isdecimal():
            groups.append([word])
            bare.append(True)
            after.append(lowered)
        else:
            groups[-1].append(word)
    after.append("")
    found = [_object(group, end, is_bare) for group, end, is_bare in zip(groups, after, bare, strict=True)]
    return [item for item in found if item]


_BEFORE_BARE = ("and", "or", "with", "of", "in", ",", "into", "through", "across", "to", "for", "between", "from")


def _joins_colours(words: list[str], place: int) -> bool:
    around = words[max(0, place - 1) : place] + words[place + 1 : place + 2]
    return len(around) == 2 and all(word.lower() in COLOURS for word in around)


def _is_between_adjectives(words: list[str], place: int) -> bool:
    """The comma of "a soft, fluffy pillow": a determiner before it with one word between, no determiner after it."""
    if words[place] != "," or place < 2 or place + 2 >= len(words):
        return False
    after = words[place + 1].lower()
    is_stop = after in _BREAKS | _DETERMINERS | _VERBS or after in COUNTS
    return words[place - 2].lower() in _DETERMINERS and not is_stop


def _object(words: list[str], after: str, may_be_bare: bool) -> Object | None:
    """The noun phrase in a run of words, the word `after` which ended it, if there is one."""
    count, determiner, rest = 1, "", words
    if rest and (rest[0].lower() in _DETERMINERS or rest[0].lower() in COUNTS or rest[0].isdecimal()):
        first = rest[0].lower()
        count = COUNTS.get(first, int(first[:3]) if first.isdecimal() else 1)
        determiner, rest = ("" if first == "the" else rest[0]), rest[1:]
    elif len(rest) > 1 and rest[0].lower() not in _NOT_VERBS and rest[0].lower().endswith("ing"):
        rest, may_be_bare = rest[1:], True  # "wearing gloves"
    if rest is words and not may_be_bare:
        return None
    kept: list[str] = []
    for place, word in enumerate(rest):
        lowered = word.lower()
        is_last = place == len(rest) - 1 and after in ("", "and", ",", ".", "of")
        is_thing = lowered in _THINGS_TOO and (is_last or (not kept and bool(determiner)))
        is_verb = (lowered in _VERBS and not is_thing) or _is_adverb(lowered)
        if is_verb and kept:
            break
        if not is_verb:
            kept.append(word)
    while len(kept) > 1 and _looks_like_verb(kept[-1].lower()):
        kept.pop()
    if not kept or (len(kept) == 1 and kept[0].lower() in _ABSTRACT):
        return None
    if not determiner and len(kept) == 1 and _looks_like_verb(kept[0].lower()):
        return None
    phrase = " ".join([determiner, *kept] if determiner else kept)
    return Object(phrase=phrase, noun=kept[-1], count=max(1, min(count, 12)))


def _is_adverb(word: str) -> bool:
    return word.endswith("ly") and word not in {"butterfly", "family", "jelly", "lily", "fly", "curly", "friendly"}


def _looks_like_verb(word: str) -> bool:
    return word not in _NOT_VERBS and word.endswith(("ed", "ing"))
