"""How an atom is asked: a yes/no question, and how the answer is to be given."""

from collections.abc import Mapping, Sequence

from itercomp_rl.judges.vlm.atoms import KINDS_OF_ASPECT, Atom

_FORMS: Mapping[str, str] = {
    "object": "Does this picture show {text}?",
    "attribute": "Does this picture show {text}?",
    "count": "Does this picture show exactly {text}, no more and no fewer?",
    "relation": "Does this picture show {text}?",
    "action": 'Does this picture show "{text}"?',  # a whole sentence; the form of VQAScore (arXiv 2404.01291)
}
YES_OR_NO = "{question} Answer with yes or no."
# For a model that gives no log-probabilities: its yes alone would tie most images of a prompt.
LOWEST, HIGHEST = 1, 5
ON_A_SCALE = (
    "{question} Answer with one number from 1 to 5: 1 = certainly not, 2 = probably not, 3 = cannot tell, "
    "4 = probably, 5 = certainly."
)


def question_of(atom: Atom) -> str:
    """The question that is true of an image exactly if it shows the atom."""
    return _FORMS[atom.kind].format(text=atom.text)


def by_aspect(atoms: Sequence[Atom], aspects: Sequence[str]) -> dict[str, tuple[Atom, ...]]:
    """Each aspect's own atoms; an aspect that has none is left out: nothing of it can be judged."""
    found = {
        aspect: tuple(atom for atom in atoms if atom.kind in KINDS_OF_ASPECT.get(aspect, ())) for aspect in aspects
    }
    return {aspect: own for aspect, own in found.items() if own}
