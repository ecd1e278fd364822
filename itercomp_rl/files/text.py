"""Text that people wrote: one way to decode it, and one rule for where its lines end."""

import re
from pathlib import Path

from itercomp_rl.errors import ConfigError

# str.splitlines also cuts at U+2028, U+2029, U+0085, VT, FF and three separators, which no editor takes for line ends.
_LINE_END = re.compile(r"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without the byte-order mark that Excel and Notepad put before it; line ends stay.

    Raises: ConfigError that names file, line and way out if the file cannot be read, its bytes are not UTF-8 (half of a
    surrogate pair included), or a NUL or a second byte-order mark stands in it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read ({error.strerror or error}): give a file of text") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(split_lines(content[: error.start].decode("utf-8", "replace") + "."))
        raise ConfigError(
            f"{str(path)!r}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error
    for mark, name, remedy in (
        ("\0", "a NUL character", "save the file as UTF-8; UTF-16 looks like this"),
        ("\ufeff", "a byte-order mark (U+FEFF) inside the text", "remove it; joined files leave it behind"),
    ):
        if mark in text:
            line = len(split_lines(text[: text.index(mark)] + "."))
            raise ConfigError(f"{str(path)!r}, line {line} holds {name}: {remedy}")
    return text


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends, which are \\n, \\r\\n and \\r only; an end of line starts no new line."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def has_lone_surrogate(text: str) -> bool:
    """Whether half of a surrogate pair stands in a text, as an escape such as \\ud83d in JSON makes it."""
    return bool(_SURROGATE.search(text))
