"""The official files of ranks: a JSON list of items, each with the gallery's images and their order."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from itercomp_rl.ranking.ranking import Places, Ranking, _check_places
from itercomp_rl.store.record_ids import plain


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


def save_official_ranks(
    path: Path, rankings: Sequence[Ranking], gallery: Sequence[str], prompts: Mapping[str, str], images: str = "images"
) -> None:
    """Write rankings of one aspect as an official file, images as `image_file` names them.

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
            **{f"image_{model}": f"{images}/{image_file(model, r.prompt_id)}" for model in gallery},
            "rank": rank_of_places(r.places, gallery),
        }
        for r in rankings
    ]
    with path.open("x", encoding="utf-8") as file:
        json.dump(items, file, ensure_ascii=False, indent=1)


def image_file(model: str, prompt_id: str) -> str:
    """The name of an image's file, whatever characters the model's name has: `<model>_prompt_<index>.png`."""
    return f"{plain(model)}_prompt_{prompt_id}.png"


def _numbers(rank: Sequence[int | str] | str) -> list[int]:
    if not isinstance(rank, list | tuple | str):
        raise ValueError(f"rank is {rank!r}: must be a list of model numbers, best first")
    for entry in rank:
        if isinstance(entry, bool) or not (isinstance(entry, int) or (isinstance(entry, str) and entry.isdecimal())):
            raise ValueError(f"rank {rank!r} holds {entry!r}: must be whole numbers counting from 1")
    return [int(entry) for entry in rank]


def _is_plain_number(prompt_id: str) -> bool:
    return prompt_id.isdecimal() and str(int(prompt_id)) == prompt_id
