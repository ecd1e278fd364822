"""Ranks that people gave, from files: the official JSON (1-based, one file per aspect) or a CSV that also holds ties.

    ranks/attribute.json   [{"prompt": "...", "image_sd15": "...", "image_sdxl": "...", "rank": [2, 1]}, ...]
    ranks/spatial.csv      prompt,model,place[,rater]
    ranks.csv              prompt,aspect,model,place[,rater]

In JSON the numbers are an order, best first, and count the item's own image_<model> fields; an item without them is
refused, as other datasets write places there (HPDv2). In CSV equal places are ties and models may be missing; columns
may be parted by `,`, `;` or tabs. Several raters of one prompt are averaged.
"""

import csv
import difflib
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.text import read_text, split_lines
from itercomp_rl.items import ASPECTS, Prompt
from itercomp_rl.ranking.official import places_of_rank
from itercomp_rl.ranking.ranking import Places, Ranking, consensus
from itercomp_rl.ranking.records import Judged

# Ranks by (prompt text, or prompt id where a file gives no text) and aspect.
Ranks = Mapping[tuple[str, str], Places]

DELIMITERS = (",", ";", "\t")  # of a CSV; Excel writes `;` where the comma is the decimal mark
_NEEDED = {"prompt", "model", "place"}
_COLUMNS = ("prompt", "aspect", "model", "place", "rater", "index")
_NO_MODELS = ("path", "file", "id", "url", "name")  # image_path and the like


def load_ranks(source: str | Path, aspects: Sequence[str], gallery: Sequence[str]) -> Ranks:
    """Every rank of a file, or of a folder's <aspect>.json and <aspect>.csv.

    Raises: ConfigError that names file and item for bad JSON or CSV, a model outside `gallery`, a number that counts
    from 0 or counts nothing named, a model or prompt ranked twice, an unknown aspect, or an aspect of `aspects` without
    any rank.
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
        ranks = {}
        for aspect, (file,) in found.items():
            of_file = dict(_file(file, aspect, gallery))
            if others := sorted({named for _, named in of_file} - {aspect}):
                raise ConfigError(
                    f"rank file {str(file)!r} holds ranks under {', '.join(others)}: in a folder a file holds those of "
                    "the aspect in its name"
                )
            ranks |= of_file
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

    num_prompts = 1

    def __init__(self, ranks: Ranks, aspects: Sequence[str]) -> None:
        self._ranks, self._aspects = ranks, aspects

    def judge_all(
        self, prompts: Sequence[Prompt], images: Sequence[Mapping[str, NDArray[np.uint8]]]
    ) -> list[dict[str, Judged]]:
        return [self.judge(prompt, own) for prompt, own in zip(prompts, images, strict=True)]

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
    return read(path, read_text(path), aspect, gallery)


def _json(path: Path, text: str, aspect: str | None, gallery: Sequence[str]) -> list[tuple[tuple[str, str], Places]]:
    try:
        items = json.loads(text)
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
    if "rank" not in item:
        raise ConfigError(f"{where} has no 'rank': the models' numbers, best first, counting from 1")
    # `image_path` and lists of images are other datasets' fields, which name no model.
    keys = [name for name, value in item.items() if name.startswith("image_") and not isinstance(value, list | dict)]
    models = [name.removeprefix("image_") for name in keys]
    pictured = [model for model in models if model in gallery or model.rstrip("s") not in _NO_MODELS]
    if not pictured:
        _ambiguous(item["rank"], gallery, where)
    for model in pictured:
        if model not in gallery:
            _unknown(model, gallery, where)
    rank: Any = item["rank"]
    if isinstance(rank, list):  # a column that once held a gap is written with decimals
        rank = [int(n) if isinstance(n, float) and n.is_integer() else n for n in rank]
    try:
        return places_of_rank(rank, pictured)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _ambiguous(rank: object, gallery: Sequence[str], where: str) -> NoReturn:
    """Numbers without names can be read in two ways, which agree for few rankings."""
    example = ""
    if isinstance(rank, list) and sorted(map(str, rank)) == sorted(map(str, range(1, len(gallery) + 1))):
        numbers = [int(number) for number in rank]
        order = " > ".join(gallery[number - 1] for number in numbers)
        places = " > ".join(gallery[numbers.index(place)] for place in range(1, len(numbers) + 1))
        example = f", for this gallery {order} or {places}"
    raise ConfigError(
        f"{where} ranks by the numbers {rank!r} and has no image_<member> fields. They can be read as an order (entry "
        f"i is the number of the image in place i) or as places (entry i is the place of image i){example}. Add "
        "image_<member> for every image, in the order that the numbers count, and write 'rank' as an order, best "
        "first; or give a CSV, which holds places (docs/judges.md)"
    )


def _csv(path: Path, text: str, aspect: str | None, gallery: Sequence[str]) -> list[tuple[tuple[str, str], Places]]:
    said: dict[tuple[str, str], dict[str, dict[str, int]]] = {}  # key -> rater -> model -> place
    try:
        for number, row, delimiter in _rows(path, text):
            where = f"rank file {str(path)!r}, line {number}"
            places = said.setdefault(_key(row, aspect, where), {}).setdefault(row.get("rater", ""), {})
            model, place = row["model"], row["place"]
            if model not in gallery:
                _unknown(model, gallery, where)
            if model in places:
                raise ConfigError(f"{where} gives {model!r} a second place: place each image of a prompt once")
            # Decimals come from a column that once held a gap: 1.0, or 1,0 where the comma parts no columns.
            whole = re.fullmatch(r"(\d+)(?:[.]0*)?" if delimiter == "," else r"(\d+)(?:[.,]0*)?", place)
            if whole is None or int(whole[1]) < 1:
                raise ConfigError(f"{where}: place is {place!r}: must be a whole number counting from 1 (the best)")
            places[model] = int(whole[1])
    except csv.Error as error:
        raise ConfigError(f"rank file {str(path)!r} cannot be read as CSV: {error}") from error
    return [(key, consensus([_grouped(places) for places in by_rater.values()])) for key, by_rater in said.items()]


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str], str]]:
    """Line number, cells by column and delimiter of every row that is not empty; names and cells lose their blanks."""
    lines = text.lstrip("\r\n")
    skipped = len(split_lines(text[: len(text) - len(lines)]))
    if (named := re.match(r"sep=(.)\r?\n", lines)) and named[1] in DELIMITERS:  # Excel's own
        lines, skipped = lines[named.end() :], skipped + 1
    first = next(iter(split_lines(lines)), "")
    headers = {mark: _header(first, mark) for mark in DELIMITERS}
    delimiter = next((mark for mark, names in headers.items() if set(names) >= _NEEDED), None)
    if delimiter is None:
        names = max(headers.values(), key=lambda header: len(_NEEDED & set(header)))
        raise ConfigError(
            f"rank file {str(path)!r} has no column {', '.join(sorted(_NEEDED - set(names)))}: its first line is "
            f"{first[:200]!r}; it must name prompt, model and place, parted by ',', ';' or a tab"
        )
    names = headers[delimiter]
    for name in names:
        close = difflib.get_close_matches(name, _COLUMNS, n=1, cutoff=0.85)
        if names.count(name) > 1 and name:
            raise ConfigError(f"rank file {str(path)!r} has the column {name!r} twice: name each column once")
        if close and name not in _COLUMNS:
            raise ConfigError(f"rank file {str(path)!r} has a column {name!r}: rename it, {close[0]!r} if it is that")
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    next(reader)
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        number = reader.line_num + skipped
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        if len(cells) != len(names):
            raise ConfigError(
                f"rank file {str(path)!r}, line {number} has {len(cells)} cells and the first line {len(names)}: put a "
                f"prompt that holds {delimiter!r} in quotation marks"
            )
        yield number, dict(zip(names, cells, strict=True)), delimiter


def _header(line: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip().lower() for cell in cells]


def _grouped(place_of: Mapping[str, int]) -> Places:
    return tuple(
        tuple(model for model, at in place_of.items() if at == place) for place in sorted(set(place_of.values()))
    )


def _key(item: Any, aspect: str | None, where: str) -> tuple[str, str]:  # Any: parsed JSON
    if not isinstance(item, Mapping):
        raise ConfigError(f"{where} is {item!r}: must be an object")
    texts = [str(item[name]).strip() for name in ("prompt", "index") if item.get(name) is not None]
    prompt = next((text for text in texts if text), None)
    if prompt is None:
        raise ConfigError(f"{where} has neither 'prompt' nor 'index': whose images does it rank?")
    named = str(item.get("aspect") or "").strip() or aspect
    if named is None:
        raise ConfigError(
            f"{where} has no 'aspect', and the run has several: name it in the item, or give a folder with one file "
            "per aspect"
        )
    if named not in ASPECTS:
        raise ConfigError(
            f"{where} has the aspect {named!r}: must be one of {', '.join(ASPECTS)}{_nearest(named, ASPECTS)}"
        )
    return prompt, named


def _nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the name that may be meant, or nothing."""
    by_form = {re.sub(r"[\W_]", "", one).lower(): one for one in known}
    close = difflib.get_close_matches(re.sub(r"[\W_]", "", name).lower(), list(by_form), n=1)
    return f"; the nearest is {by_form[close[0]]!r}" if close else ""


def _unknown(model: str, gallery: Sequence[str], where: str) -> NoReturn:
    raise ConfigError(
        f"{where} ranks {model!r}, which is no model of gallery.members ({', '.join(gallery)}"
        f"{_nearest(model, gallery)}): rename it in the file, or add that member"
    )
