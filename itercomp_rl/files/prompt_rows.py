"""The rows of a prompt file, whatever its form: the one reader of prompts that people hand in.

    .txt              one prompt a line
    .json             a list of strings or of {"text": "a red cup", "aspects": ["attribute"]}
    .jsonl, .ndjson   one such string or object a line
    .csv, .tsv        a heading with a column text, and perhaps one aspects: "attribute spatial"
    .parquet          the same columns; aspects may be lists

`prompt` and `caption` stand for `text` as well, `aspect` for `aspects`; case and other columns do not matter. A row
that cannot be read is refused with its file, its place and the way out: a prompt is never guessed.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.parquet import read_rows
from itercomp_rl.files.text import has_lone_surrogate, read_text, split_lines

SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_TABLES = (".csv", ".tsv", ".parquet")  # aspects may be words in one cell
TEXT_KEYS, ASPECT_KEYS = ("text", "prompt", "caption"), ("aspects", "aspect")

# A line that opens a list or an object, or is a member of a list: '[', '{"prompt": ...', '"a red cup",'.
_LIKE_JSON = re.compile(r'\s*([\[{]|".*",\s*$)')


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """PromptRow(place="line 3", text="a red cup", aspects=None): aspects as written, None where the row names none."""

    place: str
    text: str
    aspects: Any = None  # Any: a JSON value, which the caller checks


def read_prompt_rows(path: Path) -> list[PromptRow]:
    """Every prompt of a file in its order, repeated ones too; blank lines are no prompts.

    Raises: ConfigError with file, place and way out for another kind of file, text that is not UTF-8, a row without a
    text, a text that is no string, or a file without any prompt.
    """
    readers = {".txt": _lines, ".json": _list, ".csv": _table, ".tsv": _table, ".parquet": _parquet}
    readers |= dict.fromkeys((".jsonl", ".ndjson"), _json_lines)
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ConfigError(
            f"prompt file {str(path)!r} must end in one of {', '.join(SUFFIXES)}: save the prompts in such a form"
        )
    rows = list(read(path))
    if not rows:
        raise ConfigError(f"prompt file {str(path)!r} holds no prompt: write one a line")
    return rows


def is_text_line(text: str) -> bool:
    """Whether a .txt file can hold this prompt, so that read_prompt_rows returns it unchanged."""
    is_line = split_lines(text) == [text] and "\t" not in text and text == text.strip()
    return is_line and not _LIKE_JSON.match(text)


def read_prompt_lines(path: Path) -> list[PromptRow]:
    """The prompts of a list of T2I-CompBench: a .txt file in which what follows a tab is no part of the prompt."""
    rows = [
        PromptRow(place=f"line {number}", text=text)
        for number, line in enumerate(split_lines(read_text(path)), 1)
        if (text := line.partition("\t")[0].strip())
    ]
    for row in rows:
        _require_plain(path, row.place, row.text)
    return rows


def _lines(path: Path) -> Iterator[PromptRow]:
    for number, line in enumerate(split_lines(read_text(path)), 1):
        if text := line.strip():
            place = f"line {number}"
            _require_plain(path, place, text)
            if "\t" in text:
                _refuse(path, place, f"holds a tab ({text!r}): a table with a heading is saved as .tsv")
            yield PromptRow(place=place, text=text)


def _require_plain(path: Path, place: str, text: str) -> None:
    if _LIKE_JSON.match(text):
        _refuse(
            path,
            place,
            f"reads like JSON ({text[:60]!r}): name the file .json if it is a list, .jsonl if each line is a value; a "
            'prompt that begins so is written {"text": ...} in a .jsonl file',
        )


def _list(path: Path) -> Iterator[PromptRow]:
    values = _parsed(path, None, read_text(path))
    if not isinstance(values, list):
        raise ConfigError(f'prompt file {str(path)!r} must hold a list, such as [{{"text": "a red circle"}}]')
    for number, value in enumerate(values, 1):
        yield prompt_row(path, f"entry {number}", value)


def _json_lines(path: Path) -> Iterator[PromptRow]:
    for number, line in enumerate(split_lines(read_text(path)), 1):
        if line.strip():
            place = f"line {number}"
            yield prompt_row(path, place, _parsed(path, place, line))


def _parsed(path: Path, place: str | None, text: str) -> Any:  # Any: a JSON value
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, a key twice, an endless number
        where = f", {place}" if place else ""
        what = "one JSON value a line" if place else "a JSON list"
        raise ConfigError(
            f"prompt file {str(path)!r}{where} is not JSON ({error}): {path.suffix} files hold {what}"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a key twice")
    return found


def _table(path: Path) -> Iterator[PromptRow]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    heading: list[str] | None = None
    place = "line 1"
    try:
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                place = f"line {rows.line_num + 1}"
                continue
            if heading is None:
                heading = _heading(path, place, cells)
            elif len(cells) != len(heading):
                sign = "a tab" if delimiter == "\t" else "a comma"
                _refuse(
                    path,
                    place,
                    f"has {len(cells)} cells, and the heading {len(heading)}: put a text that holds {sign} in quotes",
                )
            else:
                yield prompt_row(path, place, dict(zip(heading, cells, strict=True)))
            place = f"line {rows.line_num + 1}"
    except csv.Error as error:
        _refuse(path, place, f"cannot be read ({error}): put such a text in quotes, and write a quote in it twice")


def _parquet(path: Path) -> Iterator[PromptRow]:
    def columns(names: list[str]) -> list[str]:
        _heading(path, "row 0", names)
        return [name for name in names if name.strip().lower() in (*TEXT_KEYS, *ASPECT_KEYS)]

    for number, row in enumerate(read_rows(path, columns), 1):
        yield prompt_row(path, f"row {number}", row)


def _heading(path: Path, place: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    kinds = [name.lower() for name in names if name]
    if repeated := [name for name in kinds if kinds.count(name) > 1]:
        _refuse(path, place, f"names the column {repeated[0]!r} twice: keep one of them")
    if not any(kind in TEXT_KEYS for kind in kinds):
        _refuse(
            path,
            place,
            f"is the heading {names!r}, and no column of it is called {', '.join(TEXT_KEYS)}: name the columns there"
            + {".tsv": ", separated by tabs", ".csv": ", separated by commas"}.get(path.suffix.lower(), ""),
        )
    return names


# Any: a JSON value, or the cells of a table by column.
def prompt_row(path: Path, place: str, value: Any) -> PromptRow:
    """The prompt that a string or an object at a place of a file is. Raises: ConfigError if it is none."""
    row: Mapping[str, Any] = value if isinstance(value, dict) else {"text": value}
    text = _one_of(path, place, row, TEXT_KEYS)
    if text is None or (isinstance(text, str) and not text.strip()):
        _refuse(path, place, f"has no text: give it a string under {', '.join(TEXT_KEYS)}, or take it out")
    if not isinstance(text, str):
        _refuse(path, place, f"is {text!r}: a prompt must be a string in quotes")
    if has_lone_surrogate(text):
        _refuse(path, place, f"holds half of a surrogate pair ({text!r}): write the whole character, or take it out")
    return PromptRow(place=place, text=text.strip(), aspects=_aspects(path, place, row))


def _aspects(path: Path, place: str, row: Mapping[str, Any]) -> Any:  # Any: a JSON value
    value = _one_of(path, place, row, ASPECT_KEYS)
    if isinstance(value, str) and path.suffix.lower() in _TABLES:
        return re.findall(r"[^\s,;|]+", value) or None
    is_single = any(key.lower() == "aspect" for key in row) and isinstance(value, str)
    return [value] if is_single else value


def _one_of(path: Path, place: str, row: Mapping[str, Any], keys: tuple[str, ...]) -> Any:  # Any: a JSON value
    """The value under whichever key is there; None if none is."""
    found = [key for key in row if isinstance(key, str) and key.strip().lower() in keys]
    if len(found) > 1:
        _refuse(path, place, f"has {' and '.join(found)}: keep the one that is meant")
    return row[found[0]] if found else None


def _refuse(path: Path, place: str, fault: str) -> NoReturn:
    raise ConfigError(f"prompt file {str(path)!r}, {place} {fault}")
