"""Prompts of a data set on the Hugging Face hub, named in place of a file: hf:owner/name[:split][:column]."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.parquet import require_extra
from itercomp_rl.files.prompt_rows import ASPECT_KEYS, TEXT_KEYS, PromptRow, prompt_row
from itercomp_rl.network.hub import check_reach

PREFIX = "hf:"
_FORM = re.compile(r"hf:(?P<name>[^:]+)(:(?P<split>[^:]*))?(:(?P<column>[^:]+))?")


def is_dataset(source: str) -> bool:
    """Whether a setting names a data set of the hub and not a file."""
    return source.startswith(PREFIX)


def read_dataset_rows(source: str) -> list[PromptRow]:
    """Every prompt of a data set in its order, repeated ones too.

    Args: source is "hf:owner/name", which reads split train, "hf:owner/name:test", or "hf:owner/name:test:caption"; in
    place of owner/name a folder that `datasets` reads. Without a column, the one called text, prompt or caption is
    read, and beside it one called aspects.
    Raises: ConfigError if `datasets` is missing, or the data set, its split or its column is, or a row is no prompt.
    """
    found = _FORM.fullmatch(source)
    if found is None:
        raise ConfigError(f"{source!r} names no data set: write hf:owner/name, or hf:owner/name:split:column")
    require_extra("datasets", f"{source!r}")
    rows = list(_rows(source, found["name"], found["split"] or "train", found["column"]))
    if not rows:
        raise ConfigError(f"{source!r} holds no prompt: name another split, hf:{found['name']}:SPLIT")
    return rows


def _rows(source: str, name: str, split: str, column: str | None) -> Iterator[PromptRow]:
    import datasets  # pyright: ignore[reportMissingImports]  # an extra
    from datasets.exceptions import DatasetsError  # pyright: ignore[reportMissingImports]

    if not Path(name).is_dir():
        check_reach(name)
    try:
        # Streaming: columns of images, which may be hundreds of gigabytes, are not fetched.
        table: Any = datasets.load_dataset(name, split=split, streaming=True)  # Any: its class depends on the arguments
        names = table.column_names  # None where only the rows tell them, as in CSV
        if names is not None:
            table = table.select_columns(_columns(source, names, column))
        for number, row in enumerate(table):
            text, *others = _columns(source, list(row), column)
            yield prompt_row(Path(source), f"row {number}", {"text": row[text]} | {name: row[name] for name in others})
    except ConfigError:
        raise
    except (OSError, ValueError, LookupError, RuntimeError, DatasetsError) as error:
        raise ConfigError(
            f"{source!r} cannot be read: {' '.join(str(error).split())}. Name it as hf:owner/name:split:column, or "
            "give a file"
        ) from error


def _columns(source: str, names: Sequence[str], column: str | None) -> list[str]:
    """The column of the prompts, and that of their aspects if there is one."""
    if column is None:
        column = next((name for name in names if name.lower() in TEXT_KEYS), None)
    if column is None or column not in names:
        raise ConfigError(
            f"{source!r} has the columns {', '.join(names) or 'none'}: name the one of the prompts, as in "
            "hf:owner/name:train:COLUMN"
        )
    return [column, *(name for name in names if name.lower() in ASPECT_KEYS and name != column)]
