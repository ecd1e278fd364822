"""Objects of a JSONL file or of a JSON list, one at a time: data sets may be larger than the memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itercomp_rl.errors import ConfigError

_PIECE = 2**20  # characters that are read of a list at a time


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line of a .jsonl file, or of every entry of a list in a .json file.

    Raises: ConfigError that names file and place for what is no such object, or no UTF-8.
    """
    read = _lines if path.suffix.lower() == ".jsonl" else _entries
    number, where = 0, "line" if read is _lines else "entry"
    try:
        for number, value in read(path):
            if not isinstance(value, dict):
                raise ConfigError(f"{str(path)!r}, {where} {number} is no object")
            yield f"{where} {number}", value
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError among them
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{str(path)!r} cannot be read as JSON after {where} {number}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, json.loads(line)


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    decoder, number, at = json.JSONDecoder(), 0, 0
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(_PIECE).lstrip()
        if not text.startswith("["):
            raise ConfigError(f"{str(path)!r} holds no list: write one object a line, and call it .jsonl")
        at = 1
        while True:
            begin = _skip(text, at, " \t\r\n," if number else " \t\r\n")
            if text.startswith("]", begin):
                return
            value: Any = None
            try:
                value, end = decoder.raw_decode(text, begin)
            except json.JSONDecodeError:
                end = len(text)
            if end < len(text):  # else it may go on
                number, at = number + 1, end
                yield number, value
                continue
            piece = file.read(max(_PIECE, len(text) - at))
            if not piece:
                raise ConfigError(f"{str(path)!r} ends, or is no JSON, after entry {number}")
            text, at = text[at:] + piece, 0


def _skip(text: str, at: int, signs: str) -> int:
    while at < len(text) and text[at] in signs:
        at += 1
    return at
