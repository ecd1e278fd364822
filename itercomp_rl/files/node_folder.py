"""The folder in which the processes of one user on one node keep what they need not make again."""

import os
import tempfile
from pathlib import Path


class UntrustedFolderError(OSError):
    """Others can write to the folder, so its files cannot be trusted."""


def node_folder() -> Path:
    """The folder, made if it is not there, in the one for temporary files (TMPDIR).

    Raises: OSError if it cannot be made; UntrustedFolderError.
    """
    folder = Path(tempfile.gettempdir()) / f"itercomp-rl-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UntrustedFolderError(f"others can write to {folder}: delete it")
    return folder
