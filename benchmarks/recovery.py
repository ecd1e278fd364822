"""What each kind of fault costs a run whose stage times are known; part of loop.py.

Every fault is a real one: signal 9 for a process, a raylet or the driver, and an S3 server that stops to answer.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from measures import measure
from s3_server import Server
from sleeping_runs import Bench, Fault, Nodes, Watch, kill_node_of, settings, started

from itercomp_rl.config.schema import Config
from itercomp_rl.forecast.stage_times import StageTimes

TIMES = StageTimes(
    draw_image_s={"default": 0.1},
    rank_image_s=0.04,
    grade_image_s=0.005,
    reward_update_s=0.05,
    roll_s=0.4,
    learn_update_s=0.5,
)
KILLED = {  # after which step of a run each process dies, in the middle of its own work
    "sampler-0": ("gallery", 8),
    "judge-0": ("gallery", 8),
    "reward_learner-0": ("rewards", 7),
    "roller-0": ("policy", 5),
    "policy_learner-0": ("policy", 5),
}


def config_of(folder: Path, name: str, *more: str) -> Config:
    """A run of half a minute in which every role works; two samplers and two rollers."""
    return settings(
        folder,
        name,
        "actors.rollers.count=2",
        "actors.samplers.count=2",
        "policy.batch=16",
        "policy.updates=20",
        "policy.max_policy_lag=1",
        "prompts.gallery=60",
        "gallery.segment=10",
        "reward.updates=40",
        *more,
    )


def recovery(bench: Bench, nodes: Nodes, folder: Path, times: StageTimes) -> Iterator[dict[str, Any]]:
    """Seconds by which the phase lasts longer in which a process, or a node, is killed."""
    whole = bench.run(config_of(folder, "undisturbed"), times)
    for label, (phase, step) in KILLED.items():
        strike = partial(os.kill, bench.pid(label), signal.SIGKILL)
        fault = Fault(phase=phase, step=step, strike=strike, delay_s=_in_the_middle(times))
        cost_s = _cost_s(bench, config_of(folder, f"without-{label}"), times, fault, whole)
        yield measure(f"a {label.rpartition('-')[0]} killed: its phase lasts longer by", cost_s, "s")
    strike = partial(kill_node_of, bench.pid("policy_learner-0"))
    fault = Fault(phase="policy", step=5, strike=strike, delay_s=_in_the_middle(times))
    cost_s = _cost_s(bench, config_of(folder, "without-node"), times, fault, whole)
    yield measure("a raylet killed with all processes of its node: its phase lasts longer by", cost_s, "s")
    nodes.add()


def _in_the_middle(times: StageTimes) -> float:
    """Seconds after the end of an update, or of another piece of work, in which the next is under way."""
    return times.learn_update_s * 0.4


def _cost_s(bench: Bench, config: Config, times: StageTimes, fault: Fault, whole: Watch) -> float:
    """Seconds by which the fault's phase lasts longer than in the undisturbed run."""
    watch = bench.run(config, times, fault)
    assert watch.has_struck, "the run was over before the fault came"
    return watch.phase_s(fault.phase) - whole.phase_s(fault.phase)


def recovery_of_the_driver(nodes: Nodes, folder: Path, times: StageTimes) -> Iterator[dict[str, Any]]:
    """Seconds that a run takes longer whose driver is killed and started again with --resume at once."""
    whole_s = drive_alone(config_of(folder, "driven"), nodes.address, times, None)
    config = config_of(folder, "driven-twice")
    broken_s = drive_alone(config, nodes.address, times, Fault(phase="policy", step=5, strike=kill_myself))
    resumed_s = drive_alone(config, nodes.address, times, None)
    cost_s = broken_s + resumed_s - whole_s
    yield measure("the driver killed and resumed, processes started anew: the run lasts longer by", cost_s, "s")


def kill_myself() -> None:
    """The end of this process, by signal 9."""
    os.kill(os.getpid(), signal.SIGKILL)


def drive_alone(config: Config, address: str, times: StageTimes, fault: Fault | None) -> float:
    """A run in a driver process of its own, to its end, which must be the expected one; seconds that it took."""
    began = time.monotonic()
    driver = multiprocessing.get_context("spawn").Process(target=_drive, args=(config, address, times, fault))
    driver.start()
    try:
        driver.join()
    finally:
        driver.kill()
    expected = -signal.SIGKILL if fault else 0
    assert driver.exitcode == expected, driver.exitcode
    return time.monotonic() - began


def _drive(config: Config, address: str, times: StageTimes, fault: Fault | None) -> None:
    with started(config, address) as bench:
        bench.run(config, times, fault)


def recovery_of_the_store(
    bench: Bench, server: Server, folder: Path, times: StageTimes, away_s: float
) -> Iterator[dict[str, Any]]:
    """Seconds that the phase in which S3 stops to answer lasts longer, the time without it included."""
    whole = bench.run(config_of(folder, "s3", "store.url=s3://bucket/undisturbed"), times)
    config = config_of(folder, "s3-away", "store.url=s3://bucket/away")
    strike = partial(server.go_away, away_s)
    cost_s = _cost_s(bench, config, times, Fault(phase="policy", step=5, strike=strike), whole)
    yield measure(f"S3 away for {away_s:g} s: its phase lasts longer by", cost_s, "s")
