"""What a prompt names: noun phrases, objects and counts, read by spaCy as T2I-CompBench does. spaCy's one home."""

from itertools import pairwise

import spacy  # pyright: ignore[reportMissingImports]  # an extra
from spacy.tokens import Doc  # pyright: ignore[reportMissingImports]

from itercomp_rl.errors import ConfigError
from itercomp_rl.evaluation.t2i_compbench.geometry import Mode
from itercomp_rl.prompt_sets.compbench import BENCHMARK

# Noun chunks that name a place and no thing.
NOT_THINGS = ("top", "the side", "the left", "the right")
PLACES = ("top", "side", "left", "right", "bottom", "front")
PREPOSITIONS = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
# Words of the benchmark that its detector knows under another name.
DETECTOR_NAMES: dict[str, str] = dict.fromkeys(("girl", "boy", "man", "woman"), "person")
COUNTED_NAMES: dict[str, str] = DETECTOR_NAMES | {"ship": "boat", "goldfish": "fish", "painting": "picture"}
NUMBERS = {"a": 1, "an": 1} | {
    word: i for i, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight"), start=1)
}
# Plurals that the benchmark counts and that do not end in s.
PLURALS = {
    "men": "man",
    "women": "woman",
    "mice": "mouse",
    "people": "person",
    "knives": "knife",
    "vases": "vase",  # spaCy's small pipeline makes "vas" of it
}
# Objects that the benchmark counts; its code overlooks every other noun.
COUNTED = frozenset((BENCHMARK / "counted_objects.txt").read_text(encoding="utf-8").split())


class Language:
    """One loaded spaCy pipeline, and what the metrics ask it about a prompt."""

    def __init__(self, name: str) -> None:
        try:
            self._nlp = spacy.load(name)
        except OSError as error:
            raise ConfigError(
                f"judge.t2i_compbench.spacy is {name!r}, which is not installed: python -m spacy download {name}"
            ) from error

    def noun_phrases(self, prompt: str) -> list[str]:
        """What BLIP-VQA asks about, in order."""
        return [chunk.text for chunk in self._nlp(prompt).noun_chunks if chunk.text not in NOT_THINGS]

    def things(self, prompt: str) -> list[str]:
        """The head noun of every noun chunk in small letters, without those that name a place."""
        heads = [chunk.root for chunk in self._nlp(prompt).noun_chunks]
        nouns = [head.text.lower() for head in heads if head.pos_ in ("NOUN", "PROPN")]
        return [noun for noun in nouns if noun not in PLACES]

    def objects(self, prompt: str) -> tuple[str, str] | None:
        """The first and the last noun of a simple prompt, as a detector names them; None without a noun."""
        nouns = [token.text for token in self._nlp(prompt) if token.pos_ == "NOUN"]
        return _named(nouns[0], nouns[-1]) if nouns else None

    def complex_objects(self, prompt: str) -> tuple[str, str] | None:
        """The nouns around the one preposition of a complex prompt; None unless there are exactly two."""
        doc = self._nlp(prompt)
        found: list[str] = []
        for i in range(len(doc)):
            length = next((n for n in (3, 2, 1) if doc[i : i + n].text in PREPOSITIONS), 0)
            if length:
                found += [*_noun_before(doc, i), *_noun_after(doc, i + length)]
        return _named(found[0], found[1]) if len(found) == 2 else None

    def without_adjectives(self, prompt: str) -> str:
        """The prompt's tokens that are no adjectives, joined by spaces."""
        return " ".join(token.text for token in self._nlp(prompt) if token.pos_ != "ADJ")

    def counted(self, prompt: str, mode: Mode) -> list[tuple[int, str]]:
        """Numbers (one to eight, a, an) with the noun behind them in the singular, as a detector names it.

        mode "official" knows the benchmark's own objects, "fixed" every noun.
        """
        doc = self._nlp(prompt)
        found = []
        for token, follower in pairwise(doc):
            if token.text in NUMBERS and follower.pos_ in ("NOUN", "PROPN"):
                name = PLURALS.get(follower.text, follower.lemma_)
                if mode == "fixed" or name in COUNTED:
                    found.append((NUMBERS[token.text], COUNTED_NAMES.get(name, name)))  # pyright: ignore[reportCallIssue, reportArgumentType]
        return found


def _named(first: str, second: str) -> tuple[str, str]:
    return DETECTOR_NAMES.get(first, first), DETECTOR_NAMES.get(second, second)


def _noun_before(doc: Doc, end: int) -> list[str]:
    return [token.text for token in reversed(doc[:end]) if token.pos_ in ("NOUN", "PROPN")][:1]


def _noun_after(doc: Doc, start: int) -> list[str]:
    rest = list(doc[start:])
    nouns = [token.text for token in rest if token.pos_ == "NOUN"]
    if nouns:
        return nouns[:1]
    # Without a noun the last word of the first proper name stands for it.
    names = [a.text for a, b in pairwise(rest) if a.pos_ == "PROPN" and b.pos_ != "PROPN"]
    return names[:1]
