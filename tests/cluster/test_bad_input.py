"""What people get wrong outside the config file: prompts, pictures, disks, permissions, stores. One line, no trace."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.main import main
from itercomp_rl.errors import ConfigError
from itercomp_rl.evaluation.t2i_compbench.samples import samples_of, score_samples
from tests.parts.json_server import json_server
from tests.parts.judge_checkpoints import make_clip
from tests.parts.small_disk import disk
from tests.parts.small_run import small_run
from tests.parts.vlm_server import said_with


def refused(*arguments: object, code: int) -> str:
    """The last line of a command that must fail in its own words with this exit code."""
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    last = found.output.strip().splitlines()[-1]
    assert last.startswith("error: "), found.output
    return last


JUDGES = ("judge.first_round=reward", "evaluation.judge=reward", "evaluation.allow_self_grading=true")
FILES = (*JUDGES, "prompts.source=files")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "holds no prompt"), (b" \n\n", "holds no prompt"), (b"a caf\xe9\n", "is not UTF-8")],
)
def test_a_run_on_a_file_without_prompts_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(content)
    files = [f"prompts.{name}_file={tmp_path / 'empty.txt'}" for name in ("train", "test")]
    line = refused("run", "tiny", *FILES, *files, f"run.dir={tmp_path / 'runs'}", code=2)
    assert "empty.txt" in line
    assert reason in line
    assert not (tmp_path / "runs").exists()


VLM = ("judge.first_round=vlm", "judge.vlm.model=m")


def test_a_run_by_a_vision_language_model_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    def run(*overrides: str, code: int = 2) -> str:
        return refused("run", "tiny", f"run.dir={tmp_path / 'runs'}", *VLM, *overrides, code=code)

    with json_server(lambda _: (404, "no model m here")) as (url, asked):
        assert "status 404: no model m here" in run(f"judge.vlm.url={url}")
        assert len(asked) == 1
    assert "judge.vlm.url is" in (line := run(f"judge.vlm.url={url}", "judge.vlm.max_retries=0"))
    assert "start the endpoint" in line
    assert "'NO_SUCH_KEY', and that environment" in run(f"judge.vlm.url={url}", "judge.vlm.key_env=NO_SUCH_KEY")
    with json_server(lambda _: said_with(0.9)) as (url, asked):
        line = run(f"judge.vlm.url={url}", "judge.vlm.max_requests=20")
        assert "judge.vlm.max_requests is 20, and the run asks about" in line
        assert len(asked) == 1
    assert "judge.vlm.model is" in run(f"judge.vlm.model={make_clip(tmp_path / 'clip')}", code=3)
    assert not (tmp_path / "runs").exists()


def test_evaluate_and_generate_refuse_prompts_that_are_empty_or_not_of_the_world(tmp_path: Path) -> None:
    run = small_run(tmp_path)[0].run_folder
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "cat.txt").write_text("a photo of a cat\n")
    assert "holds no prompt" in refused("evaluate", run, "--prompts", tmp_path / "empty.txt", code=2)
    assert "say it like 'a red circle" in refused("evaluate", run, "--prompts", tmp_path / "cat.txt", code=2)
    assert "cannot be read" in refused("evaluate", run, "--prompts", tmp_path / "none.txt", code=2)
    assert "the prompt is empty" in refused("generate", " ", "--run", run, code=2)
    assert "say it like 'a red circle" in refused("generate", "a photo of a cat", "--run", run, code=2)
    assert "published rounds of this run are 1, 2" in refused(
        *("generate", "a red circle left of a blue square", "--run", run, "--round", 7), code=2
    )


def test_a_run_to_reuse_that_is_none_or_shares_nothing_is_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path / "runs")[0].run_folder
    new = ("run", "tiny", f"run.dir={tmp_path / 'new'}")
    assert "is no run" in refused(*new, "--reuse", tmp_path / "nowhere", code=2)
    other = ("gallery.batch=3", "--reuse", run)
    assert "none of its work is this run's too" in refused(*new, *other, code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_cannot_be_read_is_named_with_the_way_out(content: bytes, tmp_path: Path) -> None:
    (sample,) = samples_of(["a red cup"], 1)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / sample.name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"a red cup.*delete it and give the command again"):
        score_samples(tmp_path, "scores", [sample], lambda prompt, image: 0.0, lambda what, done, total: None)


def test_a_damaged_picture_of_the_store_stops_with_its_record(tmp_path: Path) -> None:
    run = small_run(tmp_path)[0].run_folder
    for chunk in run.glob("store/segments/images/*/*/images/c.*"):
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 16
        chunk.write_bytes(data)
    assert "delete its marker and repeat the work" in refused("store", "export", run, "--out", tmp_path / "out", code=4)


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path) -> None:
    with disk(tmp_path / "full", "size=64k") as full:
        with (full / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        line = refused("run", "tiny", f"run.dir={full / 'runs'}", code=2)
        assert "run.dir" in line
        assert "No space left" in line
        url = f"store.url=file://{full / 'store'}"
        assert "the disk is full" in refused("run", "tiny", f"run.dir={tmp_path / 'runs'}", url, code=4)


def test_a_disk_without_permission_is_told_before_anything_starts(tmp_path: Path) -> None:
    with disk(tmp_path / "locked", "size=1m,ro") as locked:
        line = refused("run", "tiny", f"run.dir={locked / 'runs'}", code=2)
        assert "run.dir" in line
        assert "cannot be written" in line
        url = f"store.url=file://{locked / 'store'}"
        assert "read-only" in refused("run", "tiny", f"run.dir={tmp_path / 'runs'}", url, code=4)


def test_a_file_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    run = small_run(tmp_path)[0].run_folder
    with disk(tmp_path / "locked", "size=1m,ro") as locked:
        line = refused("store", "trace", run, "--json", locked / "trace.json", code=1)
        assert str(locked / "trace.json") in line
        assert "mount it for writing, or write elsewhere" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "Permission denied" in refused("run", "tiny", f"run.dir={tmp_path / 'closed' / 'runs'}", code=2)


@pytest.mark.parametrize(
    "command", [("evaluate", "{run}"), ("report", "{run}"), ("run", "tiny", "--resume", "run.name=small")]
)
def test_a_store_of_another_version_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    config, _ = small_run(tmp_path)
    (config.run_folder / "store" / "store.json").write_text(json.dumps({"format": "itercomp-rl store", "schema": 99}))
    arguments = [part.format(run=config.run_folder) for part in command]
    if command[0] == "run":
        arguments += [f"run.dir={tmp_path}", "judge.later_rounds=oracle"]
    line = refused(*arguments, code=4)
    assert "has schema version 99" in line
    assert "use the software that made it" in line
