"""Onto the disk, and not only into the system's memory: what a power cut must not take."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on the disk. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
