"""Where commands write: a place that will not do is refused before any work, and no picture replaces another."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.finished_run import new_picture
from cluster.main import main


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["generate", "x", "--run", "r", "--out", "noext"], "must end in .png"),
        (["generate", "x", "--run", "r", "--out", "."], "which is a folder"),
        (["generate", "x", "--run", "r", "--out", "afile/a.png"], "is a file and not a folder"),
        (["generate", "x", "--run", "r", "--out", f"{'n' * 300}.png"], "is longer than a name can be"),
        (["report", "r", "--out", "."], "which is a folder"),
        (["report", "r", "--out", "afile/r.html"], "is a file and not a folder"),
        (["export", "r", "--to", "afile/x"], "is a file and not a folder"),
        (["export", "r", "--to", "."], "which exists"),
        (["store", "export", "r", "--out", "afile"], "which exists"),
        (["store", "trace", "r", "--json", "."], "which is a folder"),
        (["rank", "r", "--export", "afile/x"], "is a file and not a folder"),
        (["rank", "r", "--host", "no such.host"], "--host is 'no such.host'"),
        (["rank", "r", "--host", "192.0.2.1"], "give an address of this machine"),
        (["evaluate", "t2i-compbench", "--model", "embedded:base", "--out", "afile"], "which is a file"),
        (["shapes", "pretrain", "--out", "afile"], "which is a file"),
        (["push", "nowhere", "owner/name"], "nowhere is no folder"),
    ],
)
def test_a_place_that_will_not_do_is_refused_before_any_work(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "afile").touch()
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code in (2, 3)
    assert reason in found.output.strip().splitlines()[-1], found.output
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


def test_pictures_get_names_that_no_other_picture_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [new_picture("a red circle", f"round 1 seed {seed}").name for seed in (0, 5, 0)]
    assert names == [
        "a-red-circle-round-1-seed-0.png",
        "a-red-circle-round-1-seed-5.png",
        "a-red-circle-round-1-seed-0-2.png",
    ]
    assert len(new_picture("模" * 200, "base seed 0").name.encode()) < 255
