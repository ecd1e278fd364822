"""What appears is whole, or is not there; what is there stays."""

from pathlib import Path

import pytest

from itercomp_rl.files.whole import appearing


def test_files_and_folders_appear_once_they_are_made(tmp_path: Path) -> None:
    with appearing(tmp_path / "deep" / "folder") as partial:
        partial.mkdir()
        (partial / "one").write_text("1")
        assert not (tmp_path / "deep" / "folder").exists()
    with appearing(tmp_path / "deep" / "file") as partial:
        partial.write_text("2")
    assert (tmp_path / "deep" / "folder" / "one").read_text() == "1"
    assert (tmp_path / "deep" / "file").read_text() == "2"
    assert len(list((tmp_path / "deep").iterdir())) == 2


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), appearing(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "one").write_text("1")
        _ = 1 // 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("1")
    with pytest.raises(OSError, match="folder"), appearing(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "theirs").write_text("2")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine"]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_kill_left_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with appearing(tmp_path / "folder") as partial:
        partial.mkdir()
        left = partial.parent
    assert not caplog.messages
    left.mkdir()
    with appearing(tmp_path / "folder") as partial:
        partial.mkdir()
    assert [str(left) in message and "delete it" in message for message in caplog.messages] == [True]
