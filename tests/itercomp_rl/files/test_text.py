"""Files of text are read the way editors show them."""

from pathlib import Path

import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.text import has_lone_surrogate, read_text, split_lines


def test_the_byte_order_mark_of_excel_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa red circle\r\n")
    assert read_text(tmp_path / "a.txt") == "a red circle\r\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_ends_at_newline_and_carriage_return(end: str) -> None:
    assert split_lines(f"a{end}{end}b{end}") == ["a", "", "b"]
    assert split_lines(f"a{end}b") == ["a", "b"]


@pytest.mark.parametrize("mark", "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e")
def test_a_line_does_not_end_at_other_separators(mark: str) -> None:
    assert split_lines(f"a{mark}b\n") == [f"a{mark}b"]


def test_an_empty_text_has_no_line() -> None:
    assert split_lines("") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo \xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        (b"a \xed\xa0\xbd\n", "line 1: byte 0xed is not UTF-8"),  # the surrogate U+D83D, encoded as if it were one
        ("a dog\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        ("a dog\n".encode("utf-16-le"), "line 1 holds a NUL character"),
        (b"one\n\xef\xbb\xbftwo\n", "line 2 holds a byte-order mark"),
    ],
)
def test_what_is_not_utf_8_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_text(tmp_path / "a.txt")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.txt"):
        with pytest.raises(ConfigError, match=str(path)):
            read_text(path)


def test_half_of_a_surrogate_pair_is_found() -> None:
    assert has_lone_surrogate("a cup \ud83d") and not has_lone_surrogate("a cup \U0001f600")
