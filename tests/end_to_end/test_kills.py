"""Real processes of a Ray run killed while it lasts: the outcome is the undisturbed one.

The run is sequential (max_policy_lag 0), so its images and weights must come out bit for bit the same. One run is
disturbed at every moment, as starting one costs more than what it does. Kills in every part of the work are in
test_fault_matrix.py.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from cluster.run_folder import load_run
from itercomp_rl.store import weights
from itercomp_rl.store.retention import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = (
    *("prompts.aspects=[attribute,spatial]", "judge.margin=0"),  # so that a few images make pairs
    *("prompts.gallery=24", "gallery.segment=12", "prompts.policy=8", "evaluation.images_per_aspect=2"),
    *("gallery.members.base.num_steps=1", "gallery.members.attribute.num_steps=1", "reward.checkpoint_every=2"),
    *("policy.updates=3", "policy.checkpoint_every=1", "tracking.trackers=[]", "evaluation.max_drop=null"),
)


def has(pattern: str, num: int = 1) -> Callable[[Path], bool]:
    return lambda run: len(list(run.glob(pattern))) >= num


MOMENTS = {
    "gallery": has("store/commits/images/*.json"),
    "rewards": has("store/commits/rankings/r000-*.json", 2),
    "policy": has("checkpoints/r000-u*/engine.json"),
    "evaluation": has("store/versions/policy/*.json"),
    "second round": has("store/commits/rankings/r001-*.json", 2),
}


def start(folder: Path, *extra: str, **ray_settings: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | ray_settings
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.main", "run", "tiny", f"run.dir={folder}", *SETTINGS, *extra],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    return errors


def wait_for(moment: Callable[[Path], bool], run: Path, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if moment(run):
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    raise AssertionError("the moment never came")


def workers_of(family: psutil.Process) -> list[psutil.Process]:
    """The actors' processes below this one; who ends while they are listed is none of them."""
    workers = []
    for process in family.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::Worker"):
                workers.append(process)
    return workers


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on what happened on the way."""
    _, store = load_run(run)
    assert [problem for problem in verify(store) if problem.kind != "orphan"] == []
    ids = {kind: store.ids(kind) for kind in ("images", "rankings", "evaluations", "grades")}
    images = {id_: torch.from_numpy(store.get("images", id_).arrays["images"]) for id_ in ids["images"]}
    roles = ["policy", "reward-attribute", "reward-spatial", "reward-non_spatial"]
    found = {
        f"{role} {v}": weights.open_version(store, role, v).load()
        for role in roles
        for v in weights.versions(store, role)
    }
    return {"ids": ids, "tensors": found | {"images": images}}


def assert_same(one: dict, other: dict) -> None:
    assert one["ids"] == other["ids"]
    assert one["tensors"].keys() == other["tensors"].keys()
    for version, tensors in one["tensors"].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other["tensors"][version][name]), f"{version} {name} differs"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder))
    return outcome(folder / "tiny")


def test_a_driver_killed_at_every_moment_resumes_to_the_same_outcome(undisturbed: dict, tmp_path: Path) -> None:
    process = start(tmp_path)
    for moment in MOMENTS.values():
        wait_for(moment, tmp_path / "tiny", process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        process = start(tmp_path, "--resume")
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


def test_a_worker_process_killed_at_every_moment_is_replaced_and_the_run_finishes(
    undisturbed: dict, tmp_path: Path
) -> None:
    rng, process = random.Random(0), start(tmp_path)
    for moment in MOMENTS.values():
        wait_for(moment, tmp_path / "tiny", process)
        workers = workers_of(psutil.Process(process.pid))
        assert workers, "no worker process was found"
        rng.choice(workers).kill()
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


@pytest.mark.parametrize("moment", ["rewards", "policy"])
def test_sigterm_keeps_what_was_done_says_so_and_the_run_resumes(
    moment: str, undisturbed: dict, tmp_path: Path
) -> None:
    process = start(tmp_path)
    wait_for(MOMENTS[moment], tmp_path / "tiny", process)
    process.terminate()
    last = finish(process, code=8).strip().splitlines()[-1]
    assert last == (
        "error: stopped by SIGTERM; all that was under way is committed or in a checkpoint. Go on with --resume"
    )
    finish(start(tmp_path, "--resume"))
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


def test_a_run_listens_on_this_machine_alone_and_lets_no_second_driver_in(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(MOMENTS["policy"], tmp_path / "tiny", process)
    driver = psutil.Process(process.pid)
    driver.suspend()  # or it may end before the second one has looked
    addresses = set()
    for one in [driver, *driver.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # ended since it was listed
            found = one.net_connections("tcp")
            addresses |= {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}
    said = finish(start(tmp_path, "--resume"), code=2)
    assert "another process is driving the run" in said
    driver.resume()
    assert addresses, "Ray's own servers were to be seen"
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    finish(process)
