"""Preferences that others published become a store of images and rankings, from which runs learn (reward.preferences).

    files ──> rows, read once without their images: what is wrong is named, and all is counted and sized
          ──> rows, read again with them: each different image is kept once, and each ranking as a run's own are

Neither the images nor the rows of a data set are ever all in memory.
"""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.whole import appearing
from itercomp_rl.run.preference_files import DataFile, Options, UnreadableError, data_files
from itercomp_rl.run.preference_forms import Row, Stated
from itercomp_rl.run.preference_records import Found, ImageWriter, Part, RankingWriter
from itercomp_rl.store.store import Store, open_store

GIB = 2**30
_SAMPLED = 16  # images whose size stands for all


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """What the first reading tells: how often an image is named, and how many rows each shared ranking has."""

    num_images: int
    rows_of: Counter[str]


def import_preferences(sources: Sequence[Path], folder: Path, options: Options) -> Found:
    """Write the preferences of files, or of the Parquet files of folders, into a new folder.

    Raises: ConfigError, naming file and row, for columns that no known form has, a row that is wrong, an image that is
    not there or cannot be read, or preferences without an aspect; also if the images need more than max_gib or than is
    free, or nothing is left. Then nothing is written.
    """
    if folder.exists():
        raise ConfigError(f"{str(folder)!r} exists: name a new folder, nothing is written over")
    files = [DataFile(path, number, options) for number, source in enumerate(sources) for path in data_files(source)]
    found = Found()
    counted = _count(files, found)
    _check_size(files, counted.num_images, folder, options)
    with appearing(folder) as partial:
        store = open_store(partial.absolute().as_uri(), create=True, durable=False)
        _write(store, files, counted, options, found)
        if not found.rankings:
            why = ", ".join(f"{num} {reason}" for reason, num in found.left_out.most_common()) or "no row"
            raise ConfigError(f"{', '.join(map(str, sources))} states no preference that can be used: {why}")
    return found


def _count(files: Sequence[DataFile], found: Found) -> _Counted:
    """Read every row without its image. Raises: as import_preferences."""
    num, rows_of, seen = 0, Counter[str](), set[Path]()
    for file in files:
        for place, row in file.rows(with_images=False):
            stated = file.stated(place, row)
            if isinstance(stated, str):
                found.left_out[stated] += 1
                continue
            if stated.ranking is not None:
                rows_of[stated.ranking] += 1
            for shown in stated.shown:
                if not file.has_paths(shown):
                    num += 1
                elif isinstance(path := file.image(place, row, shown), Path) and path not in seen:
                    file.require(place, path)
                    seen.add(path)
    return _Counted(num_images=num + len(seen), rows_of=rows_of)


def _check_size(files: Sequence[DataFile], num_images: int, folder: Path, options: Options) -> None:
    """Raises: ConfigError if the images, uncompressed as a store keeps them, do not fit."""
    sampled = list(islice(_images(files), _SAMPLED))
    if not sampled:
        return
    gib = num_images * float(np.mean([image.nbytes for image in sampled])) / GIB
    if gib > options.max_gib:
        raise ConfigError(
            f"--max-gib is {options.max_gib:g}, and {num_images} images need up to {gib:.2g} GiB: raise it, or scale "
            "them down further (--side-px)"
        )
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(above).free / GIB
    if gib > free:
        raise ConfigError(
            f"--to is {str(folder)!r}, where {free:.2g} GiB are free, and these images need up to {gib:.2g}: name "
            "another disk, or scale them down further (--side-px)"
        )


def _images(files: Sequence[DataFile]) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        for place, row in file.rows(with_images=True):
            if isinstance(stated := file.stated(place, row), str):
                continue
            for shown in stated.shown:
                try:
                    yield file.load(place, file.image(place, row, shown))
                except UnreadableError:
                    continue


def _write(store: Store, files: Sequence[DataFile], counted: _Counted, options: Options, found: Found) -> None:
    name = _name(files, options)
    images, rankings = ImageWriter(store, name), RankingWriter(store, name, options.aspects, found)
    waiting: dict[str, list[Part]] = {}  # rankings whose rows have not all come
    missing: Counter[str] = Counter()
    for file in files:
        for place, row in file.rows(with_images=True):
            if isinstance(stated := file.stated(place, row), str):
                continue
            part = _part(file, place, row, stated, images)
            if stated.ranking is None:
                rankings.add([part] if part else [])
                continue
            parts = waiting.setdefault(stated.ranking, [])
            if part:
                parts.append(part)
            else:
                missing[stated.ranking] += 1
            if len(parts) + missing[stated.ranking] == counted.rows_of[stated.ranking]:
                _require_one_prompt(file, place, stated.ranking, parts)
                rankings.add(waiting.pop(stated.ranking))
    images.close()
    rankings.close()
    found.images = images.num


def _part(file: DataFile, place: str, row: Row, stated: Stated, images: ImageWriter) -> Part | None:
    """None if an image of it cannot be read and may be left out."""
    sources = [file.image(place, row, shown) for shown in stated.shown]
    keys = [_key(source) for source in sources]
    try:  # all are loaded before any is kept: a row that is left out leaves no image behind
        named = zip(keys, sources, strict=True)
        new = {key: file.load(place, source) for key, source in named if images.find(key) is None}
    except UnreadableError:
        return None
    refs = []
    for key, shown in zip(keys, stated.shown, strict=True):
        if (ref := images.find(key)) is None:
            ref = images.add(key, new[key], stated, shown)
        refs.append(ref)
    return Part(stated=stated, refs=tuple(refs))


def _key(source: bytes | Path) -> bytes:
    return hashlib.sha256(source if isinstance(source, bytes) else str(source).encode()).digest()


def _require_one_prompt(file: DataFile, place: str, ranking: str, parts: Sequence[Part]) -> None:
    about = {(part.stated.prompt, part.stated.aspect) for part in parts}
    if len(about) > 1:
        raise ConfigError(
            f"{str(file.path)!r}, {place}: rows of the ranking {ranking!r} are about {len(about)} prompts or aspects, "
            f"such as {sorted(map(str, about))[:2]}: give each ranking an id of its own"
        )


def _name(files: Sequence[DataFile], options: Options) -> str:
    """The same for the same files and options, and another for others: a run may take in several imports."""
    told = [(str(file.path.absolute()), file.path.stat().st_size) for file in files]
    digest = hashlib.sha256(repr((told, options)).encode()).hexdigest()[:12]
    return f"imported-{re.sub('[^A-Za-z0-9_]+', '-', files[0].path.stem)[:40]}-{digest}"
