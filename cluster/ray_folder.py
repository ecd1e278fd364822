"""Where the files and the sockets of a private Ray lie; imports no Ray, as the doctor looks here too."""

import logging
import os
import tempfile
from pathlib import Path

from itercomp_rl.errors import ConfigError

log = logging.getLogger(__name__)

PLACES = ("/tmp", "/dev/shm")  # where TMPDIR will not do
# A path of a socket has 103 bytes at most (107 on Linux); Ray's own part of it, below a folder ray-XXXXXXXX, has 64.
LONGEST_PARENT = 103 - len("/ray-XXXXXXXX") - len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")


def private_folder() -> Path:
    """A new folder for the files of a private Ray, short enough that sockets can lie below it.

    Raises: ConfigError if neither TMPDIR nor one of the system's usual places has room for it.
    """
    asked = os.environ.get("TMPDIR")
    reasons = []
    for parent in dict.fromkeys(filter(None, (asked, *PLACES, os.environ.get("XDG_RUNTIME_DIR")))):
        if (size := len(os.fsencode(Path(parent).absolute()))) > LONGEST_PARENT:
            reasons.append(f"{parent} has {size} bytes")
            continue
        try:
            folder = Path(tempfile.mkdtemp(prefix="ray-", dir=Path(parent).absolute()))
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        if reasons:
            log.info("Ray's files lie in %s, as its sockets cannot lie below TMPDIR (%s)", folder, "; ".join(reasons))
        return folder
    raise ConfigError(
        f"TMPDIR is {asked!r}, and Ray's files find no place ({'; '.join(reasons)}): set TMPDIR to a folder that this "
        f"user may write and whose path has at most {LONGEST_PARENT} bytes, as Ray's sockets lie below it"
    )
