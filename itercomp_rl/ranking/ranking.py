"""From scores or people's ranks of one prompt's images to (winner, loser) pairs: made in step 3, learned in step 4."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

Places = tuple[tuple[str, ...], ...]
PlacingRule = Literal["official_fixed", "min_inversions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The gallery's images of one prompt under one aspect, best place first; models in one place are tied.

    Example: Ranking(prompt_id="17", aspect="spatial", places=(("flux",), ("sdxl", "sd3"), ("sd15",)),
                     scores={"flux": 1.2, "sdxl": 0.1, "sd3": 0.1, "sd15": -0.8})
    Raises: ValueError for an empty or repeated place, or scores that name other models than the places.
    """

    prompt_id: str
    aspect: str
    places: Places
    scores: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        _check_places(self.places)
        if self.scores is not None and set(self.scores) != set(self.models):
            raise ValueError(
                f"scores of prompt {self.prompt_id!r} name {sorted(self.scores)}, its places {sorted(self.models)}"
            )

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


def pairs_of(ranking: Ranking, touching: Collection[str] | None = None) -> list[Pair]:
    """Every (winner, loser) of different places, best winners first; six untied images make fifteen.

    `touching` keeps only pairs in which at least one of these models stands: the newcomers of a round.
    """
    return [
        Pair(winner=winner, loser=loser)
        for above, below in combinations(ranking.places, 2)
        for winner in above
        for loser in below
        if touching is None or winner in touching or loser in touching
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


def places_of_rank(rank: Sequence[int | str] | str, gallery: Sequence[str]) -> Places:
    """Places of an official rank: entry i is the 1-based gallery number of the model in place i, best first.

    Example: places_of_rank([3, 1, 2], ["sd15", "sdxl", "sd3"]) == (("sd3",), ("sd15",), ("sdxl",)).
    Digits may be a string, "312", as the official reader allows for galleries of up to nine.
    Raises: ValueError unless the rank names every gallery model exactly once.
    """
    numbers = _numbers(rank)
    told = f"rank {rank!r} of a gallery of {len(gallery)}"
    if len(set(gallery)) != len(gallery):
        raise ValueError(f"gallery {list(gallery)} names a model twice")
    if 0 in numbers:
        raise ValueError(f"{told} holds 0: ranks count models from 1; add 1 to each if yours count from 0")
    if unknown := sorted(n for n in set(numbers) if not 1 <= n <= len(gallery)):
        raise ValueError(f"{told} holds {unknown}: there is no such model; give the gallery the rank was made with")
    if repeated := sorted(n for n in set(numbers) if numbers.count(n) > 1):
        raise ValueError(f"{told} holds {repeated} more than once: name each model once")
    if missing := [name for n, name in enumerate(gallery, start=1) if n not in numbers]:
        raise ValueError(f"{told} leaves out {missing}: rank every model, or give the gallery of these images only")
    return tuple((gallery[n - 1],) for n in numbers)


def rank_of_places(places: Places, gallery: Sequence[str]) -> list[int]:
    """The official rank of untied places; undoes `places_of_rank`.

    Raises: ValueError for a tie, which the official format cannot hold, or models other than the gallery's.
    """
    _check_places(places)
    if tied := [place for place in places if len(place) > 1]:
        raise ValueError(f"places {tied} are tied: an official rank is a strict order; break the tie first")
    if {place[0] for place in places} != set(gallery):
        raise ValueError(f"places rank {sorted(place[0] for place in places)}, the gallery is {sorted(gallery)}")
    return [list(gallery).index(place[0]) + 1 for place in places]


def load_official_ranks(path: Path, gallery: Sequence[str], aspect: str) -> list[Ranking]:
    """Rankings of one aspect from an official file: a JSON list of {"index", "prompt", "image_<model>"..., "rank"}.

    The prompt id is the item's index as text. Raises: ValueError that names the file and item, for bad JSON, a
    missing field, images of other models than the gallery's, a repeated index, or a bad rank.
    """
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON list: {error}; put appended items between [ and ]") from error
    if not isinstance(items, list):
        raise ValueError(f"{path} holds a {type(items).__name__}: must be a list of items")
    rankings = [_ranking_of_item(item, gallery, aspect, f"{path} item {i}") for i, item in enumerate(items)]
    counts = Counter(ranking.prompt_id for ranking in rankings)
    if repeated := sorted(prompt_id for prompt_id, count in counts.items() if count > 1):
        raise ValueError(f"{path} holds index {repeated} more than once: rank a prompt once per aspect")
    return rankings


def save_official_ranks(
    path: Path, rankings: Sequence[Ranking], gallery: Sequence[str], prompts: Mapping[str, str], images: str = "images"
) -> None:
    """Write rankings of one aspect as an official file, images as `<images>/<model>_prompt_<index>.png`.

    Args: prompts maps prompt id to text.
    Raises: ValueError for mixed aspects, ties, models outside the gallery or a prompt without text; FileExistsError
    rather than overwrite.
    """
    if len({ranking.aspect for ranking in rankings}) > 1:
        raise ValueError(f"{path} would mix aspects {sorted({r.aspect for r in rankings})}: write one file for each")
    if missing := [ranking.prompt_id for ranking in rankings if ranking.prompt_id not in prompts]:
        raise ValueError(f"prompts lack {missing}: give the text of every ranked prompt")
    items = [
        {
            "index": int(r.prompt_id) if _is_plain_number(r.prompt_id) else r.prompt_id,
            "prompt": prompts[r.prompt_id],
            **{f"image_{model}": f"{images}/{model}_prompt_{r.prompt_id}.png" for model in gallery},
            "rank": rank_of_places(r.places, gallery),
        }
        for r in rankings
    ]
    with path.open("x", encoding="utf-8") as file:
        json.dump(items, file, ensure_ascii=False, indent=1)


def _ranking_of_item(item: Any, gallery: Sequence[str], aspect: str, where: str) -> Ranking:  # Any: parsed JSON
    if not isinstance(item, dict) or not {"index", "rank"} <= item.keys():
        raise ValueError(f"{where} is {item!r}: must be an object with 'index' and 'rank'")
    pictured = {key.removeprefix("image_") for key in item if key.startswith("image_")}
    if pictured and pictured != set(gallery):
        raise ValueError(f"{where} has images of {sorted(pictured)}, the gallery is {sorted(gallery)}")
    try:
        places = places_of_rank(item["rank"], gallery)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Ranking(prompt_id=str(item["index"]), aspect=aspect, places=places)


def _numbers(rank: Sequence[int | str] | str) -> list[int]:
    if not isinstance(rank, list | tuple | str):
        raise ValueError(f"rank is {rank!r}: must be a list of model numbers, best first")
    for entry in rank:
        if isinstance(entry, bool) or not (isinstance(entry, int) or (isinstance(entry, str) and entry.isdecimal())):
            raise ValueError(f"rank {rank!r} holds {entry!r}: must be whole numbers counting from 1")
    return [int(entry) for entry in rank]


def _is_plain_number(prompt_id: str) -> bool:
    return prompt_id.isdecimal() and str(int(prompt_id)) == prompt_id


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
