"""Orders of one prompt's images: from scores to places, to (winner, loser) pairs, with newcomers, agreed on by many."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Literal

Places = tuple[tuple[str, ...], ...]
PlacingRule = Literal["official_fixed", "min_inversions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The gallery's images of one prompt under one aspect, best place first; models in one place are tied.

    Example: Ranking(prompt_id="17", aspect="spatial", places=(("flux",), ("sdxl", "sd3"), ("sd15",)))
    Raises: ValueError for an empty or repeated place.
    """

    prompt_id: str
    aspect: str
    places: Places

    def __post_init__(self) -> None:
        _check_places(self.places)

    @property
    def models(self) -> tuple[str, ...]:
        """Every ranked model, best first."""
        return tuple(model for place in self.places for model in place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models' images of one prompt: the ranking puts `winner` strictly above `loser`."""

    winner: str
    loser: str


def rank_by_score(scores: Mapping[str, float], margin: float = 0.0) -> Places:
    """Places by falling score; neighbours closer than `margin`, or equal, are tied.

    So every pair across places differs by `margin` or more, at the price that a chain of near scores is one tie.
    Tied models keep the order of `scores`. Raises: ValueError for no scores, a score not finite, a negative margin.
    """
    if not scores:
        raise ValueError("there are no scores to rank")
    if not margin >= 0:
        raise ValueError(f"margin is {margin}: must be 0 or more")
    _check_finite(scores, scores)
    best_first = sorted(scores, key=lambda model: -scores[model])
    places: list[list[str]] = [[best_first[0]]]
    for above, model in pairwise(best_first):
        gap = scores[above] - scores[model]
        if gap >= margin and gap > 0:
            places.append([])
        places[-1].append(model)
    order = {model: i for i, model in enumerate(scores)}
    return tuple(tuple(sorted(place, key=order.__getitem__)) for place in places)


def pairs_of(ranking: Ranking) -> list[Pair]:
    """Every (winner, loser) of different places, best winners first; six untied images make fifteen."""
    return [
        Pair(winner=winner, loser=loser)
        for above, below in combinations(ranking.places, 2)
        for winner in above
        for loser in below
    ]


def place_newcomer(
    order: Places, scores: Mapping[str, float], newcomer: str, rule: PlacingRule = "official_fixed"
) -> Places:
    """`order` with `newcomer` in a place of its own; the given places and their order are never disturbed.

    official_fixed: from the worst place up, just below the first place that holds a score as good as the
    newcomer's, the best place included. min_inversions: where the fewest images contradict the scores, the lowest
    such place. Under both an equal score stays above the newcomer.
    Args: scores of the newcomer and of every model in `order`, from one reward model.
    Raises: ValueError for an unknown rule, a missing or non-finite score, a newcomer that is ranked already.
    Source: IterComp, data/iterative_expand_gallery.py, whose scan leaves the best place out.
    """
    _check_places(order)
    if any(newcomer in place for place in order):
        raise ValueError(f"{newcomer!r} already stands in {order}: a newcomer is placed once")
    _check_finite(scores, [newcomer, *(model for place in order for model in place)])
    if rule not in _PLACING_RULES:
        raise ValueError(f"rule is {rule!r}: must be one of {sorted(_PLACING_RULES)}")
    place_scores = [[scores[model] for model in place] for place in order]
    index = _PLACING_RULES[rule](place_scores, scores[newcomer])
    return (*order[:index], (newcomer,), *order[index:])


def _below_first_better(place_scores: Sequence[Sequence[float]], newcomer: float) -> int:
    for index in range(len(place_scores), 0, -1):
        if max(place_scores[index - 1]) >= newcomer:
            return index
    return 0


def _fewest_inversions(place_scores: Sequence[Sequence[float]], newcomer: float) -> int:
    def inversions(index: int) -> int:
        above = sum(score < newcomer for place in place_scores[:index] for score in place)
        return above + sum(score >= newcomer for place in place_scores[index:] for score in place)

    return min(range(len(place_scores), -1, -1), key=inversions)


_PLACING_RULES = {"official_fixed": _below_first_better, "min_inversions": _fewest_inversions}


def consensus(opinions: Sequence[Places]) -> Places:
    """One order of several people's orders: by the mean share of the other images that an image beats, ties as half.

    A person counts for the images that they ranked; a person who ranked one image says nothing. One opinion comes back
    as it is. Source: the Borda count, made fit for partial orders.
    Raises: ValueError without an opinion.
    """
    if not opinions:
        raise ValueError("there is no opinion to make a consensus of")
    for places in opinions:
        _check_places(places)
    if len(opinions) == 1:
        return opinions[0]
    shares: dict[str, list[Fraction]] = {}
    for places in opinions:
        total = sum(map(len, places))
        above = 0
        for place in places:
            for model in place:
                beaten = Fraction(2 * (total - above) - len(place) - 1, 2)
                shares.setdefault(model, []).extend([beaten / (total - 1)] if total > 1 else [])
            above += len(place)
    means = {model: sum(found) / len(found) if found else Fraction(1, 2) for model, found in shares.items()}
    best_first = sorted(set(means.values()), reverse=True)
    return tuple(tuple(model for model, mean in means.items() if mean == value) for value in best_first)


def kendall_tau(one: Places, other: Places) -> float | None:
    """Agreement of two orders on the images that both rank: Kendall's tau-b, 1 = same, -1 = reversed.

    None where it is not defined: fewer than two common images, or one of the two ties them all.
    Source: Kendall 1945 (tau-b, which corrects for ties).
    """
    first, second = ({m: i for i, place in enumerate(places) for m in place} for places in (one, other))
    common = [model for model in first if model in second]
    agree = apart_first = apart_second = 0
    for a, b in combinations(common, 2):
        x, y = first[a] - first[b], second[a] - second[b]
        agree += (x * y > 0) - (x * y < 0)
        apart_first += x != 0
        apart_second += y != 0
    return agree / math.sqrt(apart_first * apart_second) if apart_first and apart_second else None


def is_held_out(prompt_id: str, share: float, seed: int) -> bool:
    """Whether a prompt, with all its pairs, is kept from training; a fixed property of (seed, prompt id).

    Growing `share` only ever adds prompts. Raises: ValueError unless 0 <= share <= 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: must lie in 0..1")
    digest = hashlib.blake2b(f"{seed}:{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _check_places(places: Places) -> None:
    if not places or any(isinstance(place, str) or not place for place in places):
        raise ValueError(f"places are {places!r}: must be tuples of model names, none empty, best first")
    models = [model for place in places for model in place]
    if repeated := sorted({model for model in models if models.count(model) > 1}):
        raise ValueError(f"places {places!r} name {repeated} more than once")


def _check_finite(scores: Mapping[str, float], models: Collection[str]) -> None:
    if missing := sorted(model for model in models if model not in scores):
        raise ValueError(f"scores lack {missing}: score every image with the same reward model")
    if wild := {model: scores[model] for model in models if not math.isfinite(scores[model])}:
        raise ValueError(f"scores {wild} are not finite: they cannot be ranked")
