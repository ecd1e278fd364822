"""Runs of the command line as real processes: started, waited for, compared by what they leave."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cluster.run_folder import load_run
from tests.parts import outcomes

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


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished run of the command line left, to be compared by `outcomes.assert_same`."""
    return outcomes.outcome(*load_run(run))


def itercomp(*arguments: str, code: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["RAY_ADDRESS"] = "127.0.0.1:1"  # nobody is there: a run that joined what it finds would fail
    found = subprocess.run(
        [sys.executable, "-m", "cluster.main", *arguments],
        capture_output=True,
        text=True,
        timeout=840,
        env=environment,
        check=False,
    )
    assert found.returncode == code, found.stdout + found.stderr
    return found.stdout + found.stderr
