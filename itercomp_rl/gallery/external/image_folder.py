"""A folder of images by prompt: a manifest says which image is of which prompt, or the files' names do.

    closed/manifest.jsonl     {"file_name": "a.png", "text": "a red cup"}     a line for each image
    closed/a.png

It may be a .csv as well, and may be called metadata, as `datasets` and this project's own export of images call it.

Without a manifest a file, or a folder with the files of one prompt, is named for the prompt or its id (names that begin
with a dot, and folders __MACOSX, are left out):

    closed/a red cup.png      closed/a red cup_000003.png      closed/4f1c0a93d2b75e68.webp      closed/a red cup/1.png
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.pictures import SUFFIXES, PictureError, decode, squared
from itercomp_rl.files.text import read_text, split_lines
from itercomp_rl.prompts import prompt_id, same_text

MANIFESTS = ("manifest.jsonl", "manifest.csv", "metadata.jsonl", "metadata.csv")
FILE_COLUMNS, TEXT_COLUMNS = ("file_name", "file", "image"), ("text", "prompt", "caption")  # the first that is there

_NUMBERED = re.compile(r"(.+)_\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptImage:
    """PromptImage(file=Path("closed/a.png"), named_by="closed/manifest.jsonl, line 1")."""

    file: Path
    named_by: str  # where it says of which prompt the image is


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Which images a folder holds of each prompt; the images themselves are read when they are asked for."""

    source: str
    images: Mapping[str, tuple[PromptImage, ...]] = field(repr=False)  # by a prompt's text, as same_text has it, or id

    def images_of(self, text: str) -> tuple[PromptImage, ...]:
        """The images of a prompt, in the manifest's order, or else by their names."""
        found = (*self.images.get(same_text(text), ()), *self.images.get(prompt_id(text), ()))
        return tuple(dict.fromkeys(found))

    def others_than(self, texts: Iterable[str]) -> list[PromptImage]:
        """The images of none of these prompts."""
        known = {image for text in texts for image in self.images_of(text)}
        return list(dict.fromkeys(one for images in self.images.values() for one in images if one not in known))


def open_folder(source: str) -> ImageFolder:
    """The images of a folder, or of a manifest file.

    Raises: ConfigError, naming file and row, if there is no such folder, it holds no image, or a row of its manifest
    names no prompt, no file, or one that is not there.
    """
    path = Path(source)
    if path.is_file():
        return ImageFolder(source=source, images=_by_manifest(path))
    if not path.is_dir():
        raise ConfigError(f"{source!r} is no folder of images, and no manifest: give one that is there")
    manifests = [path / name for name in MANIFESTS if (path / name).is_file()]
    if len(manifests) > 1:
        names = " and ".join(manifest.name for manifest in manifests)
        raise ConfigError(f"{source!r} holds {names}: keep one, or name the one that is meant")
    images = _by_manifest(manifests[0]) if manifests else _by_name(path)
    if not images:
        raise ConfigError(f"{source!r} holds no image: files that end in {', '.join(SUFFIXES)} are read")
    return ImageFolder(source=source, images=images)


def load_image(image: PromptImage, side: int | None) -> NDArray[np.uint8]:
    """The pixels [S, S, 3] of one image. Raises: ConfigError that names the file, and the row that names it."""
    where = f"{str(image.file)!r} ({image.named_by})"
    try:
        return squared(decode(image.file), side)
    except PictureError as error:
        raise ConfigError(f"image {where} {error}") from error
    except OSError as error:
        raise ConfigError(f"image {where} cannot be read: {error.strerror or error}") from error


def _by_name(folder: Path) -> dict[str, tuple[PromptImage, ...]]:
    found: dict[str, list[PromptImage]] = {}
    for file in sorted(folder.rglob("*"), key=_natural):
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        parts = file.relative_to(folder).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        named = file.stem if len(parts) == 1 else parts[0]
        image = PromptImage(file=file, named_by="by its name")
        for name in _readings(named):
            found.setdefault(name, []).append(image)
    return {name: tuple(images) for name, images in found.items()}


def _readings(name: str) -> list[str]:
    """What a file's name may mean: as it is, without a number at its end, and with %XX as T2I-CompBench's are written.

    A prompt that a name does not mean is never asked for under it.
    """
    numbered = _NUMBERED.fullmatch(name)
    names = [name, *([numbered[1]] if numbered else [])]
    return list(dict.fromkeys(same_text(reading) for name in names for reading in (name, unquote(name))))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


def _by_manifest(manifest: Path) -> dict[str, tuple[PromptImage, ...]]:
    found: dict[str, dict[Path, PromptImage]] = {}  # a file that two rows name is one image
    for place, row in _rows(manifest):
        where = f"{str(manifest)!r}, {place}"
        file = manifest.parent / _cell(where, row, FILE_COLUMNS, "the file of an image")
        text = _cell(where, row, TEXT_COLUMNS, "its prompt")
        if not file.is_file():
            raise ConfigError(f"{where}: there is no file {str(file)!r}; paths count from the manifest's folder")
        image = PromptImage(file=file, named_by=f"{manifest.name}, {place}")
        found.setdefault(same_text(text), {}).setdefault(file.resolve(), image)
    return {text: tuple(images.values()) for text, images in found.items()}


def _cell(where: str, row: Mapping[str, Any], columns: tuple[str, ...], what: str) -> str:
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"{where} names {what} under none of {', '.join(columns)}: it has {', '.join(map(str, row)) or 'no column'}"
        )
    return value.strip()


def _rows(manifest: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:  # Any: JSON values
    text, kind = read_text(manifest), manifest.suffix.lower()
    if kind == ".csv":
        yield from _csv_rows(manifest, text)
        return
    if kind != ".jsonl":
        raise ConfigError(f"{str(manifest)!r} is no manifest: give a .jsonl or .csv file, or the folder of the images")
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{str(manifest)!r}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{str(manifest)!r}, line {number} is no object such as {_EXAMPLE}")
        yield f"line {number}", row


_EXAMPLE = '{"file_name": "a.png", "text": "a red cup"}'


def _csv_rows(manifest: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise ConfigError(
                    f"{str(manifest)!r}, {place} has not as many cells as the heading: put a text that holds a comma "
                    "in quotes"
                )
            yield place, {name.strip().lower(): value for name, value in row.items()}
    except csv.Error as error:
        raise ConfigError(f"{str(manifest)!r}, line {reader.line_num} cannot be read: {error}") from error
