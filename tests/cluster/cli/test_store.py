"""`itercomp store` and `itercomp status` on a run folder."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from actors.status import write_status
from actors.telemetry import RoleSize, RunMeter
from cluster.main import main
from itercomp_rl.run.status import read_state
from tests.parts.small_run import small_run


def itercomp(*arguments: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path)[0].run_folder


def test_ls_counts_records_and_versions(run: Path) -> None:
    text = itercomp("store", "ls", run)
    assert "segments/images" in text
    assert "weights/policy" in text
    assert "latest version 1" in text
    assert itercomp("store", "ls", (run / "store").as_uri()).splitlines() == text.splitlines()


def test_verify_says_what_is_wrong_and_ends_with_the_stores_exit_code(run: Path) -> None:
    assert "every published record is whole" in itercomp("store", "verify", run)
    chunk = next(run.glob("store/segments/images/*/*/images/c.*"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 16
    chunk.write_bytes(data)
    text = itercomp("store", "verify", run, code=4)
    assert "corrupt" in text
    assert chunk.relative_to(run / "store").parts[2] in text
    problems = itercomp("store", "verify", run, "--json", code=4)
    assert [found["kind"] for found in json.JSONDecoder().raw_decode(problems)[0]] == ["corrupt"]


def test_compact_gathers_what_is_old_and_undoes_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 markers are packed" in itercomp("store", "compact", run)  # all of them are young
    before = itercomp("store", "ls", run)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    markers = len([*run.glob("store/commits/*/*.json")])
    assert f"{markers} markers are packed" in itercomp("store", "compact", run)
    assert not [*run.glob("store/commits/*/*.json")]
    assert itercomp("store", "ls", run) == before
    assert "every published record is whole" in itercomp("store", "verify", run)
    assert f"{markers} markers lie by themselves again" in itercomp("store", "compact", run, "--undo")
    assert len([*run.glob("store/commits/*/*.json")]) == markers


def test_gc_keeps_what_rounds_published(run: Path) -> None:
    assert "0 old versions" in itercomp("store", "gc", run)
    assert "every published record is whole" in itercomp("store", "verify", run)


def test_export_and_trace_say_where_they_wrote(run: Path, tmp_path: Path) -> None:
    assert f"images: {tmp_path / 'out'}" in itercomp("store", "export", run, "--out", tmp_path / "out")
    text = itercomp("store", "trace", run, "--json", tmp_path / "trace.json")
    assert "policy 1:" in text
    assert "images of policy-0" in text
    assert [policy["version"] for policy in json.loads((tmp_path / "trace.json").read_text())["policies"]] == [0, 1]
    first = itercomp("store", "trace", run, 0, "--prompt", "a ")
    assert "policy 1:" not in first
    assert "seed" in first


def test_status_counts_what_is_done(run: Path) -> None:
    state = json.loads(itercomp("status", run, "--json"))
    assert [row["is_published"] for row in state["rounds"]] == [True, True]
    assert all(row["segments"] == row["total_segments"] > 0 for row in state["rounds"])
    assert all(row["ranked"] == row["total_ranked"] > 0 for row in state["rounds"])
    assert all(row["graded"] == 0 < row["total_graded"] for row in state["rounds"])
    assert "--resume continues it" in " ".join(itercomp("status", run).split())


def test_status_shows_a_living_drivers_roles_and_not_a_dead_ones(tmp_path: Path) -> None:
    config, store = small_run(tmp_path)
    meter = RunMeter({"roller": RoleSize(members=2, devices=1.0, device="gpu")})
    with meter.order("roller"):
        write_status(meter.tree(), config.run_folder)
    live = read_state(config, store, time.time()).live
    assert live is not None
    assert live["roles"]["roller"] == {"members": 2, "devices": "1 gpu", "busy": 1, "waiting": 0}
    assert "roller" in itercomp("status", config.run_folder)
    assert read_state(config, store, time.time() + 60).live is None


def test_a_run_that_is_not_there_is_named() -> None:
    assert "is no run" in itercomp("store", "ls", "no-such-run", code=2)
    assert "is no run" in itercomp("status", "no-such-run", code=2)
