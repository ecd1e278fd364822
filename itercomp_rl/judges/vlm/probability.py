"""P(yes) from a model's answer: from the log-probabilities of its first word, or from a number on a scale."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.answer import final_text
from itercomp_rl.judges.vlm.questions import HIGHEST, LOWEST

MIN_MASS = 0.01  # of yes and no together, below which a token is no answer to the question
_MARKS = " \t\r\n\u2581\u0120\u010a.,:;!?\"'*_`()[]"  # around a word; word-piece marks of tokenizers too
_NUMBER = re.compile(r"\D*([1-9]\d*)\s*(?:/\s*5|out of 5)?\D*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Token(text="Yes", choices={"Yes": -0.1, "No": -2.4}): the log-probabilities of what could have stood there."""

    text: str
    choices: Mapping[str, float]


def p_yes(tokens: Sequence[Token]) -> float | None:
    """P(yes) / (P(yes) + P(no)) where the answer says it, each summed over its ways of being written.

    The answer's place is its first word after any reasoning; else its last word, if that is yes or no ("The answer is
    yes"); else its first word again, if yes and no have a noticeable probability there. None if there is no such place.
    """
    answer = _after_reasoning(tokens)
    if not answer:
        return None
    first, last = answer[0], answer[-1]
    if yes_or_no(first.text) is None and yes_or_no(last.text) is not None:
        return _share(last.choices, 0.0)
    return _share(first.choices, 0.0 if yes_or_no(first.text) is not None else MIN_MASS)


def p_on_scale(text: str) -> float | None:
    """The number of an answer, from LOWEST (0) to HIGHEST (1); None unless it holds one number of the scale alone."""
    try:
        found = _NUMBER.fullmatch(final_text(text))
    except PlanError:  # cut off within its reasoning
        return None
    if found is None or not LOWEST <= int(found[1]) <= HIGHEST:
        return None
    return (int(found[1]) - LOWEST) / (HIGHEST - LOWEST)


def _after_reasoning(tokens: Sequence[Token]) -> list[Token]:
    """The tokens of the final answer that hold a word."""
    whole = "".join(token.text for token in tokens)
    try:
        final = final_text(whole).strip()
    except PlanError:  # cut off within its reasoning
        return []
    start = whole.rfind(final)
    found, end = [], 0
    for token in tokens:
        end += len(token.text)
        if end > start and token.text.strip(_MARKS):
            found.append(token)
    return found


def yes_or_no(text: str) -> str | None:
    """Which of the two a token is, however it is written; None for any other."""
    word = text.strip(_MARKS).lower()
    return word if word in ("yes", "no") else None


def _share(choices: Mapping[str, float], min_mass: float) -> float | None:
    sums = {"yes": 0.0, "no": 0.0}
    for text, logprob in choices.items():
        if (word := yes_or_no(text)) is not None and not math.isnan(logprob):
            sums[word] += math.exp(min(0.0, logprob))
    mass = sums["yes"] + sums["no"]
    return sums["yes"] / mass if mass > 0 and mass >= min_mass else None
