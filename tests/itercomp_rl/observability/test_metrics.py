"""Metrics reach the lines of JSON and every tracker, under the same names and steps."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.observability.metrics import MetricsLog
from itercomp_rl.observability.trackers import TRACKERS, TrackedRun, Trackers, check_trackers, dotted


def open_log(folder: Path, trackers: list[str], images: int = 0) -> MetricsLog:
    run = TrackedRun(project="tests", name="one", folder=folder, settings={"policy.batch": 16})
    pictures = np.full((images, 8, 8, 3), 200, np.uint8) if images else None
    return MetricsLog(folder, Trackers(trackers, run), lambda _: pictures)


def write_two_updates(log: MetricsLog) -> None:
    with log.phase("evaluation", 2, 0) as advance:
        advance(1, {"policy/loss": 3.0, "policy/lag_updates": 0})
        advance(1, {"policy/loss": 2.0})
    log.record({"utilisation/judge": 0.5})
    log.close()


def test_every_metric_is_one_line_with_its_own_step(tmp_path: Path) -> None:
    write_two_updates(open_log(tmp_path, []))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [(line["name"], line["step"], line["value"]) for line in lines if not line["name"].startswith("time/")]
    assert found == [
        ("policy/loss", 0, 3.0),
        ("policy/lag_updates", 0, 0),
        ("policy/loss", 1, 2.0),
        ("utilisation/judge", 0, 0.5),
    ]


def test_a_resumed_run_counts_on_and_a_torn_line_is_not_joined_to_the_next(tmp_path: Path) -> None:
    write_two_updates(open_log(tmp_path, []))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 5, "rou')
    write_two_updates(open_log(tmp_path, []))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["name"] == "policy/loss"] == [0, 1, 2, 3]


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "0"}, {"PMI_SIZE": "2"}, {"WORLD_SIZE": "8", "RANK": "3"}])
def test_a_driver_that_a_launcher_of_ranks_started_waits_for_no_others(
    variables: dict[str, str], tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from itercomp_rl.observability.trackers import TrackedRun, Trackers\n"
        "run = TrackedRun(project='p', name='n', folder=Path(sys.argv[1]), settings={})\n"
        "trackers = Trackers(['tensorboard'], run)\n"
        "trackers.log({'policy/loss': 3.0}, 0); trackers.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=os.environ | variables, check=True, timeout=60)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("policy/loss")] == [3.0]


def test_tensorboard_shows_the_same_names_steps_and_images(tmp_path: Path) -> None:
    write_two_updates(open_log(tmp_path, ["tensorboard"], images=3))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("policy/loss")] == [(0, 3.0), (1, 2.0)]
    assert "utilisation/judge" in board.Tags()["scalars"]
    assert board.Tags()["images"]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_takes_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(TRACKERS[name].package) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    write_two_updates(open_log(tmp_path, [name], images=2))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before - {tmp_path / "metrics.jsonl"}


def test_an_unknown_tracker_and_one_that_is_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="tracking.trackers is 'neptune'"):
        load_config("tiny", ["tracking.trackers=[neptune]"])
    monkeypatch.setitem(
        TRACKERS,
        "absent",
        TRACKERS["wandb"].__class__(package="no_such_package_here", open=open_log, log_images=open_log),
    )  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pip install no_such_package_here"):
        check_trackers(["absent"])


def test_settings_are_named_as_on_the_command_line() -> None:
    assert dotted({"policy": {"batch": 16, "engine": {"lr": 0.1}}, "x": [1, 2], "y": None}) == {
        "policy.batch": 16,
        "policy.engine.lr": 0.1,
        "x": "[1, 2]",
        "y": "None",
    }
