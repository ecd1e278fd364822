"""Tables in Parquet files, read by columns and a few rows at a time; pyarrow is an optional requirement."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from itercomp_rl.errors import ConfigError

ROWS_AT_ONCE = 1024


def require_extra(package: str, what: str) -> None:
    """Raises: ConfigError, naming `what` needs it and how to install it, if an optional package is missing."""
    if find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}: pip install 'itercomp-rl[data]'")


def read_rows(
    path: Path, pick: Callable[[list[str]], Sequence[str]], rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as dictionaries of Python values.

    Args: pick: takes the names of all columns and returns those to read; others, such as images, stay on disk.
    rows_at_once: fewer where columns hold images.
    Raises: ConfigError if pyarrow is missing or the file is no whole Parquet file.
    """
    require_extra("pyarrow", f"{str(path)!r}")
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    try:
        with parquet.ParquetFile(path) as file:
            columns = list(pick(file.schema_arrow.names))
            for batch in file.iter_batches(rows_at_once, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as Parquet: {' '.join(str(error).split())}") from error


def column_kinds(path: Path) -> dict[str, bool]:
    """The columns of a Parquet file, and whether each holds bytes in some form, as images do, rather than plain values.

    Raises: as read_rows.
    """
    require_extra("pyarrow", f"{str(path)!r}")
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as Parquet: {' '.join(str(error).split())}") from error
    return {field.name: "binary" in str(field.type) for field in schema}
