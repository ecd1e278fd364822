"""Files and folders that are whole from the moment they are there."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

log = logging.getLogger(__name__)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Where to make a file or folder that is to be `path`: it appears whole or, after an error or a kill, not at all.

    What is given does not exist yet. A kill leaves a hidden folder beside `path`, which the next time names.
    Raises: OSError if `path` is a folder that holds something: nothing is written over it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-{'?' * 8}"):
        log.warning("%s is what a killed process left: delete it, unless another is just writing %s", left, path)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)
