"""Files and folders that are never seen half-written: each is made beside its place and renamed into it."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from itercomp_rl.files.flush import flush

log = logging.getLogger(__name__)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a path at which to make a new file or folder, which becomes `path` on success and vanishes on an error.

    The yielded path does not exist yet. If the process is killed, a hidden temporary folder remains beside `path`; the
    next call for the same path logs its name. Raises: OSError if `path` is a folder that is not empty: nothing is
    overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-{'?' * 8}"):
        log.warning("%s was left by a killed process: delete it, unless another one is just writing %s", left, path)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a path at which to write a file that then replaces `path` in one step; an error leaves `path` as it was.

    The folder must exist. Processes and threads may replace the same file at the same time: the last one to finish
    wins, whole.
    Args: durable: return only when the file and its name are on the disk, so that a power cut cannot take them.
    Raises: OSError.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        yield new
        if durable:
            flush(new)
        new.replace(path)
        if durable:
            flush(path.parent)
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text file with `replacing`."""
    with replacing(path, durable=durable) as new:
        new.write_text(text, encoding="utf-8")
