"""The files of a data set of preferences: their rows, with or without images, and what each row states."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.json_rows import read_objects
from itercomp_rl.files.parquet import column_kinds, read_rows
from itercomp_rl.files.pictures import PictureError, decode
from itercomp_rl.run.preference_forms import PROMPTS, Form, Row, Shown, Stated, form_of, known_forms

KINDS = (".parquet", ".jsonl", ".json")
_ROWS, _IMAGE_ROWS = 1024, 16  # of Parquet in memory at a time, without images and with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a data set is read."""

    aspects: tuple[str, ...] = ()  # under which preferences without an aspect count; of others, those that are kept
    images: Path | None = None  # where paths of images count from; None: from the folder of the file that names them
    side_px: int = 512  # an image with a longer shorter side is scaled down to it
    max_gib: float = 50.0
    skips_unreadable: bool = False  # leave out what has an image that cannot be read, and count it


class UnreadableError(Exception):
    """An image that cannot be read, and may be left out."""


def data_files(source: Path) -> list[Path]:
    """The file that a source is, or the Parquet files in a folder. Raises: ConfigError if there is none."""
    if source.is_dir():
        found = sorted(source.rglob("*.parquet"))
        if not found:
            raise ConfigError(f"{str(source)!r} holds no .parquet file: name the files that are meant")
        return found
    if not source.is_file():
        raise ConfigError(f"{str(source)!r} is no file and no folder of preferences")
    if source.suffix.lower() not in KINDS:
        raise ConfigError(f"{str(source)!r} must end in one of {', '.join(KINDS)}: save it in such a form")
    return [source]


class DataFile:
    """One file of a data set, whose rows are read twice."""

    def __init__(self, path: Path, source: int, options: Options) -> None:
        """source: the data set's number; ids of rankings mean the same in all its files, and something else in others.

        Raises: ConfigError for columns of no known form.
        """
        self.path, self._source, self._options = path, source, options
        self._folder = options.images or path.parent
        self._real_folder = self._folder.resolve()
        self._is_parquet = path.suffix.lower() == ".parquet"
        self._holds_bytes = column_kinds(path) if self._is_parquet else {}
        columns = list(self._holds_bytes) if self._is_parquet else self._first_columns()
        self.form = self._form(columns, "row 1" if self._is_parquet else "its first object")

    def _first_columns(self) -> list[str]:
        first = next(read_objects(self.path), None)
        if first is None:
            raise ConfigError(f"{str(self.path)!r} is empty")
        return list(first[1])

    def _form(self, columns: Sequence[str], place: str) -> Form:
        if form := form_of(columns):
            return form
        raise ConfigError(
            f"{str(self.path)!r}, {place} has the columns {', '.join(columns) or 'none'}, which are of no known form "
            f"of preferences. Known are {known_forms()}"
        )

    def rows(self, *, with_images: bool) -> Iterator[tuple[str, Row]]:
        """(place, row); without images, columns that hold bytes are left out, and paths stay."""
        if not self._is_parquet:
            yield from read_objects(self.path)
            return

        def pick(names: list[str]) -> list[str]:
            return [name for name in names if with_images or not self._holds_bytes[name]]

        at_once = _IMAGE_ROWS if with_images else _ROWS
        for number, row in enumerate(read_rows(self.path, pick, at_once), 1):
            yield f"row {number}", row

    def stated(self, place: str, row: Row) -> Stated | str:
        """What a row states, under the aspects that are asked for. Raises: ConfigError that names the row."""
        try:
            if missing := sorted(self.form.needs - self.form.images - set(row)):
                raise ValueError(f"it has no {', '.join(missing)}")
            if not any(name in row for name in PROMPTS):
                raise ValueError(f"it has none of {', '.join(PROMPTS)}")
            stated = self.form.read(row)
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"{str(self.path)!r}, {place} is wrong: {error}") from error
        if isinstance(stated, str):
            return stated
        if stated.aspect is None and not self._options.aspects:
            raise ConfigError(
                f"{str(self.path)!r}, {place} ({self.form.name}) names no aspect: say under which its preferences "
                "count, --aspect attribute"
            )
        if stated.aspect is not None and self._options.aspects and stated.aspect not in self._options.aspects:
            return "of another aspect"
        if stated.ranking is None:
            return stated
        return replace(stated, ranking=f"{self._source}/{stated.ranking}")

    def image(self, place: str, row: Row, shown: Shown) -> bytes | Path:
        """The bytes of an image, or where it lies.

        Raises: ConfigError that names the row, also for a path that leads out of the folder that paths count from.
        """
        value = row.get(shown.column)
        if shown.index is not None:
            value = value[shown.index] if isinstance(value, list) and shown.index < len(value) else None
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{str(self.path)!r}, {place} has no image under {shown.column}, but {value!r:.80}")
        path = self._folder / value
        if not path.resolve().is_relative_to(self._real_folder):
            raise ConfigError(
                f"{str(self.path)!r}, {place}: its image {value!r} lies outside of {str(self._folder)!r}: name the "
                "folder that holds all images, and that paths count from (--images; --images / allows every path)"
            )
        return path

    def has_paths(self, shown: Shown) -> bool:
        """Whether a column names files, so that the first reading can look for them."""
        return not self._holds_bytes.get(shown.column, False)

    def require(self, place: str, path: Path) -> None:
        """Raises: ConfigError if a row names a file that is not there, unless that may be left out."""
        if not self._options.skips_unreadable and not path.is_file():
            raise ConfigError(
                f"{str(self.path)!r}, {place}: there is no image {str(path)!r}; name the folder that paths count from "
                "(--images), or leave out what cannot be read (--skip-unreadable)"
            )

    def load(self, place: str, source: bytes | Path) -> NDArray[np.uint8]:
        """An image [H, W, 3] at the size that is kept.

        Raises: ConfigError that names the row if it cannot be read, or UnreadableError where it may be left out.
        """
        name = f" {str(source)!r}" if isinstance(source, Path) else ""
        try:
            return _scaled(decode(source), self._options.side_px)
        except (PictureError, OSError) as error:
            why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            if self._options.skips_unreadable:
                raise UnreadableError(why) from error
            raise ConfigError(
                f"{str(self.path)!r}, {place}: its image{name} {why}; mend it, or leave out what cannot be read "
                "(--skip-unreadable)"
            ) from error


def _scaled(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if shorter <= side_px:
        return pixels
    size = (max(1, round(width * side_px / shorter)), max(1, round(height * side_px / shorter)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
