"""Prompt files as people have them: every form gives the same prompts, what is none is refused with its place."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.prompt_rows import PromptRow, is_text_line, read_prompt_rows

CUP, BALL = "a red cup on a table", "a blue ball"


def rows(folder: Path, name: str, content: str | bytes) -> list[PromptRow]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompt_rows(folder / name)


def texts(folder: Path, name: str, content: str | bytes) -> list[str]:
    return [row.text for row in rows(folder, name, content)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.txt", [CUP, "", BALL]),
        ("a.TXT", [CUP, BALL]),
        ("a.json", ["[", json.dumps(CUP) + ",", json.dumps({"text": BALL}), "]"]),
        ("a.JSON", [json.dumps([{"Prompt": CUP}, {"caption": BALL}])]),
        ("a.jsonl", [json.dumps({"tag": "colors", "prompt": CUP}), "", json.dumps(BALL)]),
        ("a.ndjson", [json.dumps({"text": CUP}), json.dumps({"caption": BALL})]),
        ("a.csv", ["id,prompt", f"1,{CUP}", "", f'2,"{BALL}"', ","]),
        ("a.CSV", ["Caption", CUP, BALL]),
        ("a.tsv", ["Prompt\tCategory", f"{CUP}\tcups", f"{BALL}\tballs"]),
    ],
)
def test_every_form_gives_the_same_prompts(tmp_path: Path, name: str, lines: list[str], end: str, mark: bytes) -> None:
    assert texts(tmp_path, name, mark + (end.join(lines) + end).encode()) == [CUP, BALL]


def parquet_rows(folder: Path, columns: dict[str, list[Any]]) -> list[PromptRow]:
    pyarrow = pytest.importorskip("pyarrow", reason="itercomp-rl[data] is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    return read_prompt_rows(folder / "a.parquet")


def test_a_parquet_file_gives_the_same_prompts_and_leaves_its_images_on_disk(tmp_path: Path) -> None:
    odd = 'a 🐈 says "meow",\non a table'
    found = parquet_rows(
        tmp_path, {"image": [b"x"] * 3, "Prompt": [CUP, odd, CUP], "aspects": [["spatial"], None, ["attribute"]]}
    )
    assert [(row.text, row.aspects) for row in found] == [(CUP, ["spatial"]), (odd, None), (CUP, ["attribute"])]
    assert parquet_rows(tmp_path, {"text": [CUP], "aspect": ["attribute spatial"]})[0].aspects == [
        "attribute",
        "spatial",
    ]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": ["x"]}, "no column of it is called text, prompt, caption"),
        ({"text": ["a"], "prompt": ["b"]}, "row 1 has text and prompt: keep the one"),
        ({"text": [CUP, None]}, "row 2 has no text"),
        ({"text": [1.5]}, "row 1 is 1.5: a prompt must be a string"),
        ({"text": [" "]}, "row 1 has no text"),
    ],
)
def test_what_is_no_prompt_in_a_parquet_file_is_refused_with_its_row(
    tmp_path: Path, columns: dict[str, list[Any]], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        parquet_rows(tmp_path, columns)


def test_a_parquet_file_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    has_pyarrow = find_spec("pyarrow") is not None
    reason = "cannot be read as Parquet" if has_pyarrow else r"needs pyarrow: pip install 'itercomp-rl\[data\]'"
    with pytest.raises(ConfigError, match=f"a.parquet' {reason}"):
        rows(tmp_path, "a.parquet", b"PAR1 and then nothing")


@pytest.mark.parametrize("mark", "\u2028\u2029\u0085\x0b\x0c\x1c")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_prompt_keeps_separators_that_end_no_line(tmp_path: Path, name: str, mark: str) -> None:
    text = f"a poster that says HELLO{mark}WORLD"
    lines = {"a.txt": text, "a.jsonl": json.dumps({"text": text}, ensure_ascii=True), "a.csv": f"text\n{text}"}
    assert texts(tmp_path, name, lines[name] + "\n") == [text]


def test_a_cell_in_quotes_holds_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    assert texts(tmp_path, "a.csv", 'prompt\n"a ""red"" cup, on\na table"\n') == ['a "red" cup, on\na table']


@pytest.mark.parametrize(
    ("name", "content", "aspects"),
    [
        ("a.json", json.dumps([{"text": CUP, "aspects": ["spatial"]}]), ["spatial"]),
        ("a.json", json.dumps([{"text": CUP, "aspect": "spatial"}]), ["spatial"]),
        ("a.json", json.dumps([{"text": CUP}]), None),
        ("a.csv", f"prompt,aspect\n{CUP},spatial\n", ["spatial"]),
        ("a.csv", f"prompt,aspects\n{CUP},attribute spatial\n", ["attribute", "spatial"]),
        ("a.csv", f'prompt,aspects\n{CUP},"attribute, spatial"\n', ["attribute", "spatial"]),
        ("a.csv", f"prompt,aspects\n{CUP},\n", None),
        ("a.tsv", f"text\taspects\n{CUP}\tattribute;spatial\n", ["attribute", "spatial"]),
    ],
)
def test_a_row_may_name_its_aspects(tmp_path: Path, name: str, content: str, aspects: list[str] | None) -> None:
    assert [row.aspects for row in rows(tmp_path, name, content)] == [aspects]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.yaml", f"- {CUP}\n", r"must end in one of \.txt, \.json, \.jsonl, \.ndjson, \.csv, \.tsv, \.parquet"),
        ("a.txt.gz", CUP, "must end in one of"),
        ("prompts", CUP, "must end in one of"),
        ("a.txt", f'{CUP}\n  {{"text": "{BALL}"}}\n', "line 2 reads like JSON"),
        ("a.txt", f'[\n"{CUP}"\n]\n', "line 1 reads like JSON"),
        ("a.txt", f'"{CUP}",\n"{BALL}"\n', "line 1 reads like JSON"),
        ("a.txt", f"{CUP}\tcups\n", "line 1 holds a tab"),
        ("a.txt", b"\xff\xfea\x00", "line 1: byte 0xff is not UTF-8"),
        ("a.txt", " \n\n", "holds no prompt"),
        ("a.jsonl", "", "holds no prompt"),
        ("a.csv", "prompt\n", "holds no prompt"),
        ("a.json", json.dumps({"prompts": [CUP]}), "must hold a list"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", f'["{CUP}", null]', "entry 2 has no text"),
        ("a.json", f'["{CUP}", NaN]', "entry 2 is nan: a prompt must be a string"),
        ("a.json", f'["{CUP}", 5]', "entry 2 is 5: a prompt must be a string"),
        ("a.json", f'["{CUP}", true]', "entry 2 is True: a prompt must be a string"),
        ("a.json", f'["{CUP}", ["a dog", "a cow"]]', "entry 2 is .*: a prompt must be a string"),
        ("a.json", '[{"text": null}]', "entry 1 has no text"),
        ("a.json", '[{"tag": "colors"}]', "entry 1 has no text: give it a string under text, prompt, caption"),
        ("a.json", '["a red cup \\ud83d"]', "entry 1 holds half of a surrogate pair"),
        ("a.json", '[{"text": "a", "text": "b"}]', "names a key twice"),
        ("a.json", '[{"text": "a", "prompt": "b"}]', "entry 1 has text and prompt: keep the one"),
        ("a.jsonl", f'{{"text": "{CUP}"}}\n{BALL}\n', "line 2 is not JSON .*one JSON value a line"),
        ("a.jsonl", f'\n["{CUP}", "{BALL}"]\n', "line 2 is .*: a prompt must be a string"),
        ("a.csv", f"{CUP}\n{BALL}\n", "line 1 is the heading .*no column of it is called text, prompt, caption"),
        ("a.csv", f"prompt;aspect\n{CUP};spatial\n", "separated by commas"),
        ("a.csv", "prompt,Prompt\na,b\n", "names the column 'prompt' twice"),
        ("a.csv", f"prompt\n{CUP}\na cup, red\n", "line 3 has 2 cells, and the heading 1"),
        ("a.csv", "prompt,aspects\na cup\n", "line 2 has 1 cells, and the heading 2"),
        ("a.csv", "prompt,aspects\n,spatial\n", "line 2 has no text"),
        ("a.csv", f'prompt\n"a\ncup"\n"HELLO" on {CUP}\n', "line 4 cannot be read .*put such a text in quotes"),
        ("a.csv", f'prompt\n"{CUP}\n', "line 2 cannot be read"),
    ],
)
def test_what_is_no_prompt_is_refused_with_file_and_place(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        rows(tmp_path, name, content)
    assert name in str(refusal.value)


@pytest.mark.parametrize("text", [CUP, "a poster that says HELLO\u2028WORLD", '"HELLO" on a wall', "a, b {c}"])
def test_a_text_that_is_a_line_is_read_back_from_one(tmp_path: Path, text: str) -> None:
    assert is_text_line(text)
    assert texts(tmp_path, "a.txt", f"{text}\n") == [text]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\tb", " a", "[a]", "{a}", '"a",'])
def test_a_text_that_a_line_would_change_or_that_would_be_refused_is_none(text: str) -> None:
    assert not is_text_line(text)
