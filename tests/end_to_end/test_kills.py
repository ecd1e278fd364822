"""kill -9 of the driver (then `--resume`) or of a worker while the policy learns: the outcome is the undisturbed one.

The tiny run is sequential (max_policy_lag 0), so its weights must come out bit for bit the same.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from cluster.launch import load_run
from itercomp_rl.store import weights
from itercomp_rl.store.retention import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MOMENTS: dict[str, Callable[[Path], bool]] = {
    "policy": lambda run: any((run / "checkpoints").glob("r000-u*/engine.json")),
}


def start(folder: Path, *extra: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.main", "run", "tiny", f"run.dir={folder}", *extra],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def wait_for(moment: Callable[[Path], bool], run: Path, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if moment(run):
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    raise AssertionError("the moment never came")


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on what happened on the way."""
    _, store = load_run(run)
    assert [problem for problem in verify(store) if problem.kind == "corrupt"] == []
    ids = {kind: store.ids(kind) for kind in ("images", "rankings", "evaluations", "grades")}
    roles = ["policy", "reward-attribute", "reward-spatial", "reward-non_spatial"]
    found = {f"{role} {v}": weights.load(store, role, v) for role in roles for v in weights.versions(store, role)}
    return {"ids": ids, "weights": found}


def assert_same(one: dict, other: dict) -> None:
    assert one["ids"] == other["ids"]
    assert one["weights"].keys() == other["weights"].keys()
    for version, tensors in one["weights"].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other["weights"][version][name]), f"{version} {name} differs"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder))
    return outcome(folder / "tiny")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_driver_resumes_to_the_same_outcome(moment: str, undisturbed: dict, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(MOMENTS[moment], tmp_path / "tiny", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finish(start(tmp_path, "--resume"))
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_killed_worker_process_is_replaced_and_the_run_finishes(
    moment: str, undisturbed: dict, tmp_path: Path
) -> None:
    process = start(tmp_path)
    wait_for(MOMENTS[moment], tmp_path / "tiny", process)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name().startswith("ray::Worker")]
    assert workers, "no worker process was found"
    workers[0].kill()
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), undisturbed)
