"""Paths that a command writes to, checked as the command line is read, before any work is done."""

import errno
import os
from pathlib import Path
from typing import Any

import click

from itercomp_rl.errors import ConfigError


class _OutputPath(click.Path):
    """A path whose folders can be made where they are missing, so that writing there need not fail after the work."""

    def __init__(self, **settings: Any) -> None:  # Any: as click.Path has them
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fspath(value))
        self.check(path, param.opts[0] if param else "the path")
        return path

    def check(self, path: Path, key: str) -> None:
        """Raises: ConfigError that names the option, the path and the way out; OSError where nobody may write."""
        whole = path.absolute()
        for part in whole.parts:
            if len(os.fsencode(part)) > 255:
                raise ConfigError(
                    f"{key} is {str(path)!r}: {part[:40]}... is longer than a name can be, give a shorter one"
                )
        above = next(parent for parent in whole.parents if parent.exists())
        if not above.is_dir():
            raise ConfigError(f"{key} is {str(path)!r}: {above} is a file and not a folder, give another path")
        if not whole.exists() and not os.access(above, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number), str(path))  # cluster/main.py names the way out


class OutputFile(_OutputPath):
    """A file to write, over one that is there; its folder is made. suffixes: that it may end in; none: any."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False)
        self._suffixes = suffixes

    def check(self, path: Path, key: str) -> None:
        super().check(path, key)
        if path.is_dir():
            raise ConfigError(f"{key} is {str(path)!r}, which is a folder: name a file in it")
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            raise ConfigError(f"{key} is {str(path)!r}: must end in {', '.join(self._suffixes)}")
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{key} is {str(path)!r}: this user may not write that file, give another path")


class OutputFolder(_OutputPath):
    """A folder to write to: a new one, or (is_continued) one that is there too."""

    def __init__(self, *, is_continued: bool = False) -> None:
        super().__init__(file_okay=False)
        self._is_continued = is_continued

    def check(self, path: Path, key: str) -> None:
        super().check(path, key)
        if path.exists() and not self._is_continued:
            raise ConfigError(f"{key} is {str(path)!r}, which exists: name a new folder, nothing is written over")
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{key} is {str(path)!r}, which is a file: name a folder")
