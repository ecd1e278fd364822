"""Where a private Ray lies: below TMPDIR where its sockets fit, elsewhere if not, and never without a word."""

import logging
from pathlib import Path

import pytest

from cluster import ray_folder
from cluster.ray_folder import LONGEST_PARENT, private_folder
from itercomp_rl.errors import ConfigError

SOCKET = "session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store"


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /tmp, however long its path is."""
    (tmp_path / "short").mkdir()
    monkeypatch.setattr(ray_folder, "PLACES", (str(tmp_path / "short"),))
    monkeypatch.setattr(ray_folder, "LONGEST_PARENT", len(str(tmp_path / "short")))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "short"


def test_sockets_below_the_longest_folder_have_a_path_that_every_system_takes() -> None:
    assert len(f"{'x' * LONGEST_PARENT}/ray-12345678/{SOCKET}") <= 103
    assert len("/run/user/100000") < LONGEST_PARENT


def test_a_short_folder_that_can_be_written_is_taken(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short.parent / "own").mkdir()
    monkeypatch.setenv("TMPDIR", str(short.parent / "own"))
    assert private_folder().parent == short.parent / "own"


@pytest.mark.parametrize("name", ["slurm_jobdir_1355700_of_node0016", "none"])
def test_elsewhere_is_taken_for_a_folder_that_is_too_long_or_not_there_and_said(
    name: str, short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if name != "none":
        (short.parent / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(short.parent / name))
    with caplog.at_level(logging.INFO, logger="cluster"):
        assert private_folder().parent == short
    assert "TMPDIR" in caplog.text and name in caplog.text


def test_a_machine_without_any_place_is_told_to_set_tmpdir(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short.rmdir()
    monkeypatch.setenv("TMPDIR", "x" * 200)
    with pytest.raises(ConfigError, match=r"TMPDIR is 'xxx.*has 2\d\d bytes.*set TMPDIR to a folder"):
        private_folder()
