"""A finished file takes a new name, and never one that is in use: this is what makes a write create-only."""

import ctypes
import errno
import os
from pathlib import Path

# What file systems without hard links answer: exFAT and CIFS EPERM or EOPNOTSUPP, FUSE ENOSYS, some overlays EXDEV.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # of Linux' fcntl.h and fs.h


class NoNewNameError(OSError):
    """The file system can give a file a new name only in ways that may replace another file."""


def take_new_name(staged: Path, path: Path) -> None:
    """Rename `staged` to `path`, in the same folder, in one step that fails where `path` exists.

    Raises: FileExistsError, and then `staged` is still there; NoNewNameError; OSError.
    """
    try:
        os.link(staged, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_without_replacing(staged, path, error)
    else:
        staged.unlink()


def _rename_without_replacing(staged: Path, path: Path, refused: OSError) -> None:
    # Python has no call for it: os.rename replaces. A libc or kernel without it refuses, and nothing is replaced.
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise NoNewNameError(*refused.args) from refused
    if libc.renameat2(_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise NoNewNameError(*refused.args) from refused
    raise OSError(code, os.strerror(code), str(path))
