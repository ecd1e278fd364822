"""Objects of JSONL files and JSON lists: the same as json.loads gives, whatever pieces a file is read in."""

import json
from pathlib import Path

import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.files import json_rows
from itercomp_rl.files.json_rows import read_objects

ROWS = [{"a": i, "text": 'x"]},{[ \\ é\u2028 ' * (i % 5), "deep": [{"b": [i, None, 1.5]}]} for i in range(40)]


@pytest.mark.parametrize("piece", [1, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_entry_by_entry_in_pieces_of_any_size(
    piece: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "_PIECE", piece)
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding="utf-8")
    found = list(read_objects(tmp_path / "a.json"))
    assert [row for _, row in found] == ROWS
    assert [place for place, _ in found] == [f"entry {i}" for i in range(1, 41)]


def test_lines_are_read_with_a_mark_at_their_begin_and_blank_ones_between(tmp_path: Path) -> None:
    lines = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines, encoding="utf-8", newline="")
    found = list(read_objects(tmp_path / "a.jsonl"))
    assert [row for _, row in found] == ROWS
    assert found[1][0] == "line 3"


def test_an_empty_list_has_no_entry(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" [ ]\n")
    assert list(read_objects(tmp_path / "a.json")) == []


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", '{"a": 1}', "holds no list: write one object a line"),
        ("a.json", '[{"a": 1}, {"a": 2}', "ends, or is no JSON, after entry 1"),
        ("a.json", '[{"a": 1}, oops]', "ends, or is no JSON, after entry 1"),
        ("a.json", '[{"a": 1}, 3]', "entry 2 is no object"),
        ("a.jsonl", '{"a": 1}\n[2]', "line 2 is no object"),
        ("a.jsonl", '{"a": 1}\n{"a"', "cannot be read as JSON after line 1"),
    ],
)
def test_what_is_no_object_is_named_with_its_place(name: str, content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=why):
        list(read_objects(tmp_path / name))


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        list(read_objects(tmp_path / "a.jsonl"))
