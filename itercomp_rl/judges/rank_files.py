"""Ranks that people gave, from files: the official JSON (1-based, one file per aspect) or a CSV that also holds ties.

    ranks/attribute.json   [{"prompt": "...", "image_sd15": "...", "image_sdxl": "...", "rank": [2, 1]}, ...]
    ranks/spatial.csv      prompt,model,place[,rater]
    ranks.csv              prompt,aspect,model,place[,rater]

In JSON the numbers count an item's own image_<model> fields, in their order; an item without them counts the run's
gallery. In CSV equal places are ties and models may be missing. Several raters of one prompt are averaged.
"""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.ranking.official import places_of_rank
from itercomp_rl.ranking.ranking import Places, Ranking, consensus
from itercomp_rl.ranking.records import Judged

# Ranks by (prompt text, or prompt id where a file gives no text) and aspect.
Ranks = Mapping[tuple[str, str], Places]


def load_ranks(source: str | Path, aspects: Sequence[str], gallery: Sequence[str]) -> Ranks:
    """Every rank of a file, or of a folder's <aspect>.json and <aspect>.csv.

    Raises: ConfigError that names file and item for bad JSON or CSV, a model outside `gallery`, a number that counts
    from 0, a model or prompt ranked twice, an unknown aspect, or an aspect of `aspects` without any rank.
    """
    path = Path(source)
    if path.is_dir():
        files = {aspect: [path / f"{aspect}{end}" for end in (".json", ".csv")] for aspect in aspects}
        found = {aspect: [file for file in pair if file.is_file()] for aspect, pair in files.items()}
        for aspect, pair in found.items():
            if len(pair) != 1:
                have = "both" if pair else "neither"
                raise ConfigError(
                    f"judge.first_round is {str(source)!r}, which holds {have} of {aspect}.json and {aspect}.csv: give "
                    "one of them for every aspect of prompts.aspects"
                )
        ranks = {key: places for aspect, (file,) in found.items() for key, places in _file(file, aspect, gallery)}
    elif path.is_file():
        ranks = dict(_file(path, aspects[0] if len(aspects) == 1 else None, gallery))
    else:
        raise ConfigError(f"judge.first_round is {str(source)!r}: there is no such rank file or folder")
    ranked = {aspect for _, aspect in ranks}
    if lacking := [aspect for aspect in aspects if aspect not in ranked]:
        raise ConfigError(
            f"judge.first_round is {str(source)!r}, which ranks nothing under {', '.join(lacking)}: add such ranks, or "
            "take the aspect out of prompts.aspects"
        )
    return ranks


def check_coverage(source: str, ranks: Ranks, prompts: Sequence[Prompt], aspects: Sequence[str]) -> dict[str, int]:
    """How many of a run's gallery prompts are ranked, per aspect.

    Raises: ConfigError if there is an aspect under which none of them is.
    """
    counts = {a: sum(a in p.aspects and _find(ranks, p, a) is not None for p in prompts) for a in aspects}
    for aspect, count in counts.items():
        if count == 0:
            example = next(key for key, ranked in ranks if ranked == aspect)
            raise ConfigError(
                f"judge.first_round is {source!r}, which ranks none of the {len(prompts)} gallery prompts under "
                f"{aspect}: it ranks prompts like {example!r}; the run must draw the prompts that were ranked "
                "(prompts.train_file)"
            )
    return counts


class RankFileJudge:
    """A GroupJudge that repeats what people said; prompts and models that they did not rank make no pairs."""

    def __init__(self, ranks: Ranks, aspects: Sequence[str]) -> None:
        self._ranks, self._aspects = ranks, aspects

    def judge(self, prompt: Prompt, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Judged]:
        found = {}
        for aspect in prompt.aspects:
            ranked = _find(self._ranks, prompt, aspect) if aspect in self._aspects else None
            places = _only(ranked or (), images)
            if places:
                found[aspect] = Judged(ranking=Ranking(prompt_id=prompt.id, aspect=aspect, places=places), scores={})
        return found


def _find(ranks: Ranks, prompt: Prompt, aspect: str) -> Places | None:
    return ranks.get((prompt.text, aspect), ranks.get((prompt.id, aspect)))


def _only(places: Places, models: Collection[str]) -> Places:
    kept = (tuple(model for model in place if model in models) for place in places)
    return tuple(place for place in kept if place)


def _file(path: Path, aspect: str | None, gallery: Sequence[str]) -> list[tuple[tuple[str, str], Places]]:
    read = {".json": _json, ".csv": _csv}.get(path.suffix)
    if read is None:
        raise ConfigError(f"rank file {str(path)!r}: must end in .json (official ranks) or .csv")
    try:
        return read(path, aspect, gallery)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"rank file {str(path)!r} cannot be read: {error}") from error


def _json(path: Path, aspect: str | None, gallery: Sequence[str]) -> list[tuple[tuple[str, str], Places]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"rank file {str(path)!r} is not JSON: {error}") from error
    if not isinstance(items, list):
        raise ConfigError(f"rank file {str(path)!r} holds a {type(items).__name__}: must be a list of items")
    found: dict[tuple[str, str], Places] = {}
    for number, item in enumerate(items):
        where = f"rank file {str(path)!r}, item {number}"
        key = _key(item, aspect, where)
        if key in found:
            raise ConfigError(f"{where} ranks {key[0]!r} a second time under {key[1]}: rank a prompt once per aspect")
        found[key] = _places(item, gallery, where)
    return list(found.items())


def _places(item: Mapping[str, Any], gallery: Sequence[str], where: str) -> Places:  # Any: parsed JSON
    pictured = [name.removeprefix("image_") for name in item if name.startswith("image_")]
    if "rank" not in item:
        raise ConfigError(f"{where} has no 'rank': the models' numbers, best first, counting from 1")
    for model in pictured:
        if model not in gallery:
            _unknown(model, gallery, where)
    try:
        return places_of_rank(item["rank"], pictured or gallery)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _csv(path: Path, aspect: str | None, gallery: Sequence[str]) -> list[tuple[tuple[str, str], Places]]:
    said: dict[tuple[str, str], dict[str, dict[str, int]]] = {}  # key -> rater -> model -> place
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := {"prompt", "model", "place"} - set(rows.fieldnames or ()):
            raise ConfigError(f"rank file {str(path)!r} has no column {', '.join(sorted(missing))}")
        for number, row in enumerate(rows, start=2):
            where = f"rank file {str(path)!r}, line {number}"
            places = said.setdefault(_key(row, aspect, where), {}).setdefault(row.get("rater") or "", {})
            model, place = row["model"] or "", row["place"] or ""
            if model not in gallery:
                _unknown(model, gallery, where)
            if model in places:
                raise ConfigError(f"{where} gives {model!r} a second place: place each image of a prompt once")
            if not place.isdecimal() or int(place) < 1:
                raise ConfigError(f"{where}: place is {place!r}: must be a whole number counting from 1 (the best)")
            places[model] = int(place)
    return [(key, consensus([_grouped(places) for places in by_rater.values()])) for key, by_rater in said.items()]


def _grouped(place_of: Mapping[str, int]) -> Places:
    return tuple(
        tuple(model for model, at in place_of.items() if at == place) for place in sorted(set(place_of.values()))
    )


def _key(item: Any, aspect: str | None, where: str) -> tuple[str, str]:  # Any: parsed JSON
    if not isinstance(item, Mapping):
        raise ConfigError(f"{where} is {item!r}: must be an object")
    prompt, index = item.get("prompt"), item.get("index")
    if prompt is None and index is None:
        raise ConfigError(f"{where} has neither 'prompt' nor 'index': whose images does it rank?")
    told = item.get("aspect") or aspect
    if told is None:
        raise ConfigError(
            f"{where} has no 'aspect', and the run has several: name it in the item, or give a folder with one file "
            "per aspect"
        )
    return str(prompt if prompt is not None else index).strip(), str(told)


def _unknown(model: str, gallery: Sequence[str], where: str) -> NoReturn:
    raise ConfigError(
        f"{where} ranks {model!r}, which is no model of gallery.members ({', '.join(gallery)}): rename it in the file, "
        "or add that member"
    )
