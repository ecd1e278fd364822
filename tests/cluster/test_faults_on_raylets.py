"""A fault matrix on a real cluster: any process, raylet or driver killed by signal 9 at any step of any phase.

Ray, raylets, processes, messages, the loop and the store are real; the roles sleep (benchmarks/sleepers.py), and leave
digests of what they were given: an update lost or made twice, and work done under other weights, ends in other records.
Runs are sequential (max_policy_lag 0) and must end in the same store as an undisturbed one. The real roles are killed
in tests/end_to_end/test_fault_matrix.py and test_kills.py.
"""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recovery import drive_alone, kill_myself
from sleepers import policy_id
from sleeping_runs import Bench, Fault, Nodes, Watch, kill_node_of, settings, simulated_nodes, started

from itercomp_rl.config.schema import Config
from itercomp_rl.forecast.stage_times import StageTimes
from itercomp_rl.store.store import Store, open_store
from tests.parts.covering import covering
from tests.parts.outcomes import check_ledger

PROCESSES = ("sampler-0", "judge-0", "reward_learner-0", "roller-1", "policy_learner-0", "policy_learner-1")
RAYLET = "raylet of policy_learner-0"
TARGETS = (*PROCESSES, RAYLET)
PHASES = ("evaluation", "gallery", "rewards", "policy")
TIMES = StageTimes(
    draw_image_s={"default": 0.005},
    rank_image_s=0.002,
    grade_image_s=0.001,
    reward_update_s=0.01,
    roll_s=0.02,
    learn_update_s=0.04,
)

pytestmark = pytest.mark.timeout(600)


def config_of(folder: Path, name: str) -> Config:
    """Two rounds of a few seconds with two ranks of the policy learner."""
    return settings(
        folder,
        name,
        *("run.rounds=2", "actors.samplers.count=2", "actors.rollers.count=2", "actors.policy_learners.count=2"),
        *("prompts.gallery=24", "gallery.segment=6", "reward.updates=20", "policy.batch=16", "policy.updates=4"),
        *(
            "evaluation.seen_images_per_aspect=0",
            "reward.checkpoint_every=3",
            "actors.start_timeout_s=240",
            "actors.progress_timeout_s=120",
        ),
    )


def outcome(config: Config) -> dict[str, Any]:
    """Every record of a run, whose ledger and store are checked."""
    store = open_store(config.store_url, durable=False)
    check_ledger(config, store)
    assert store.ids("policies") == sorted(policy_id(round_, rank) for round_ in range(2) for rank in range(2))
    kinds = ("images", "rankings", "rewards", "policies", "evaluations", "grades")
    return {f"{kind}/{id_}": _content(store, kind, id_) for kind in kinds for id_ in store.ids(kind)}


def _content(store: Store, kind: str, id_: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    record = store.get(kind, id_)
    return {name: array.tobytes() for name, array in record.arrays.items()}, record.attrs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[Nodes]:
    with simulated_nodes(config_of(folder, "all")) as found:
        yield found


@pytest.fixture(scope="module")
def bench(nodes: Nodes, folder: Path) -> Iterator[Bench]:
    with started(config_of(folder, "all"), nodes.address) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, folder: Path) -> tuple[Watch, dict[str, Any]]:
    config = config_of(folder, "undisturbed")
    return bench.run(config, TIMES), outcome(config)


def check(
    target: str, phase: str, seed: int, bench: Bench, nodes: Nodes, undisturbed: tuple[Watch, dict], folder: Path
) -> None:
    watch, expected = undisturbed
    rng = np.random.default_rng([seed, TARGETS.index(target), PHASES.index(phase)])
    last = len(watch.steps[phase]) - {"evaluation": 2, "policy": 1}.get(phase, 0)  # it must come before the run ends
    step = int(rng.integers(1, 1 + last))
    label, is_raylet = target.rpartition(" ")[2], target == RAYLET
    victim = bench.pid(label)
    strike = partial(kill_node_of, victim) if is_raylet else partial(os.kill, victim, signal.SIGKILL)
    config = config_of(folder, f"{target}-{phase}-{seed}".replace(" ", "-"))
    fault = Fault(phase=phase, step=step, strike=strike, delay_s=float(rng.uniform(0, 0.08)))
    try:
        found = bench.run(config, TIMES, fault)
    finally:
        if is_raylet:
            nodes.add()
    assert found.has_struck
    bench.wait()
    assert bench.pid(label) != victim
    assert outcome(config) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "phase"),
    [
        *zip(("sampler-0", "judge-0", "reward_learner-0"), ("gallery", "gallery", "rewards"), strict=True),
        *zip(("roller-1", "policy_learner-1", RAYLET), ("policy", "policy", "policy"), strict=True),
    ],
)
def test_who_dies_at_its_work_changes_nothing(
    target: str, phase: str, bench: Bench, nodes: Nodes, undisturbed: tuple[Watch, dict], folder: Path
) -> None:
    check(target, phase, 7, bench, nodes, undisturbed, folder)


@pytest.mark.parametrize(("target", "phase", "seed"), covering(TARGETS, PHASES, (0, 1)))
def test_whoever_dies_at_any_step_changes_nothing(
    target: str, phase: str, seed: int, bench: Bench, nodes: Nodes, undisturbed: tuple[Watch, dict], folder: Path
) -> None:
    check(target, phase, seed, bench, nodes, undisturbed, folder)


@pytest.mark.slow
def test_a_driver_that_dies_in_every_phase_and_is_started_again_changes_nothing(
    nodes: Nodes, undisturbed: tuple[Watch, dict], folder: Path
) -> None:
    config, rng = config_of(folder, "driver"), np.random.default_rng(0)
    for _ in range(3):  # room beside the processes of the other tests
        nodes.add()
    # Steps count anew in each life; those of what is done come first, so that the last one dies in the second round.
    for phase, step in [*((phase, int(rng.integers(1, 5))) for phase in PHASES), ("gallery", 20)]:
        fault = Fault(phase=phase, step=step, strike=kill_myself, delay_s=float(rng.uniform(0, 0.08)))
        drive_alone(config, nodes.address, TIMES, fault)
    drive_alone(config, nodes.address, TIMES, None)
    assert outcome(config) == undisturbed[1]
