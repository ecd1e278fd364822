"""Whole runs of actors that only sleep, on several raylets of this machine: Ray, processes, loop and store are real."""

import asyncio
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster
from sleepers import CURRENT, SleepingWorker

from actors.metered import keep_status, metered
from actors.telemetry import RunMeter
from actors.timing import keep_times
from actors.worker import WorkerHandle
from cluster.launch import StoreLedger
from cluster.placement import role_names, role_sizes, workers
from cluster.processes import cluster, make_team, places, start_workers
from itercomp_rl.config import load_config
from itercomp_rl.items import RolloutOrder
from itercomp_rl.loop import Advance, run_rounds
from itercomp_rl.schema import Config
from itercomp_rl.simulation import Forecast, LightPlan, simulate
from itercomp_rl.stage_times import StageTimes
from itercomp_rl.store.store import Store, open_store

NODES = 4  # of which one is to spare


def settings(folder: Path, name: str, *overrides: str) -> Config:
    """A config of the sleeping runs; evaluation is as short as can be."""
    return load_config(
        "tiny",
        [
            f"run.dir={folder}",
            f"run.name={name}",
            "run.rounds=1",
            "prompts.world.colours=[red,green,blue,yellow,purple,cyan]",
            "prompts.world.shapes=[circle,square,triangle,cross]",
            "reward.updates=0",
            "actors.layout=separate",
            "actors.reward_learners.count=1",
            "actors.policy_learners.count=1",
            "actors.start_timeout_s=600",
            "evaluation.images_per_aspect=4",
            "evaluation.denoising_images=0",
            "evaluation.max_drop=null",
            *overrides,
        ],
    )


class SleepingLedger(StoreLedger):
    """Nothing is painted, so grades hold no scores to compare."""

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return 0.0, 0.0


class PromptPlan(LightPlan):
    """Orders of rollouts with their prompts, as real rollers get them."""

    def rollout_order(self, round_: int, index: int, live: tuple[str, int]) -> RolloutOrder:
        size = self.config.policy.rollout_batch
        order = super().rollout_order(round_, index, live)
        return replace(order, prompts=tuple(self.policy_prompts[:size]), seeds=(0,) * size, mid_steps=((1,) * size,))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done to a run at a step of one of its phases."""

    phase: str
    step: int
    strike: Callable[[], None]


class Watch:
    """Satisfies loop.Progress: when phases and updates began and ended; strikes where it is told to."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self.phases: dict[str, float] = {}
        self.steps: dict[str, list[float]] = {}

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        began, steps = time.monotonic(), self.steps.setdefault(name, [])

        def advance(num: int, metrics: Mapping[str, float]) -> None:
            steps.append(time.monotonic())
            if self._fault and (self._fault.phase, self._fault.step) == (name, len(steps)):
                self._fault.strike()

        try:
            yield advance
        finally:  # a phase that a death ends begins again
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began


class Nodes:
    """A cluster whose nodes are raylets of this machine; the CPUs that they state are places for processes."""

    def __init__(self, cluster: Cluster, cpus: int) -> None:
        self._cluster, self._cpus = cluster, cpus
        self.address = str(cluster.address)

    def add(self) -> None:
        """One more node."""
        self._cluster.add_node(num_cpus=self._cpus, include_dashboard=False)


@contextmanager
def simulated_nodes(most: Config) -> Iterator[Nodes]:
    """Nodes for the run that needs most processes; a head that has no place for any, and one node to spare."""
    os.environ["RAY_TMPDIR"] = folder = mkdtemp(prefix="r")  # short: sockets lie below it
    head = {"num_cpus": 0, "include_dashboard": False}
    raylets = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = Nodes(raylets, math.ceil(len(workers(most)) / (NODES - 1)))
        for _ in range(NODES):
            nodes.add()
        yield nodes
    finally:
        raylets.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def kill_node_of(pid: int) -> None:
    """As by a power cut: the raylet that started this process dies by signal 9, and all that it started with it."""
    raylet = psutil.Process(pid).parent()
    assert raylet is not None
    assert "raylet" in raylet.name(), raylet.name()
    raylet.kill()


class Bench:
    """One set of processes, used by many runs; a run with lower counts uses some of them."""

    def __init__(self, handles: dict[str, WorkerHandle]) -> None:
        self._handles = handles

    def pid(self, label: str) -> int:
        """The process of a label as it is now."""
        facts: Any = ray.get(self._handles[label].ready.remote())  # Any: what Worker.ready says
        return int(facts["pid"])

    def run(self, config: Config, times: StageTimes, fault: Fault | None = None) -> Watch:
        """A whole run, or what is left of it."""
        config.run_folder.mkdir(parents=True, exist_ok=True)
        used = {spec.label: self._handles[spec.label] for spec in workers(config)}
        tree = {"name": config.run.name, "store": config.store_url, "times": asdict(times)}
        (Path(config.run.dir) / CURRENT).write_text(json.dumps(tree))
        ray.get([handle.begin.remote() for handle in used.values()])
        store = open_store(config.store_url, create=True, durable=config.store.durable)
        watch = Watch(fault)
        asyncio.run(self._run(config, store, used, watch))
        return watch

    async def _run(self, config: Config, store: Store, used: dict[str, WorkerHandle], watch: Watch) -> None:
        team, _ = make_team(config, used)
        plan = PromptPlan(config=config)
        await team.policy_learner.join()  # type: ignore[attr-defined]  # the remote group's own step
        meter = RunMeter(*role_sizes(config))
        keepers = [
            asyncio.create_task(keep_status(meter, config.run_folder)),
            asyncio.create_task(keep_times(used, config.run_folder)),
        ]
        try:
            await run_rounds(plan, metered(team, meter), SleepingLedger(store, plan), watch)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)


@contextmanager
def started(most: Config, address: str) -> Iterator[Bench]:
    """The processes of the run that needs most of them, on the cluster at this address."""
    specs = workers(most)
    with cluster(address), places(most, specs) as options:
        handles = start_workers(most, specs, options, worker=SleepingWorker)
        try:
            yield Bench(handles)
        finally:
            for handle in handles.values():
                ray.kill(handle)


def predicted(config: Config, times: StageTimes) -> Forecast:
    """What the simulator says of the same run."""
    return simulate(LightPlan(config=config), times, role_names(workers(config)))


def faster(times: StageTimes, factor: float) -> StageTimes:
    """Every stage in this part of its time."""

    def part(value: float | Mapping[str, float]) -> Any:  # Any: of the value's own kind
        return {name: s / factor for name, s in value.items()} if isinstance(value, Mapping) else value / factor

    return StageTimes(**{name: part(value) for name, value in asdict(times).items()})


def pace(steps: Sequence[float]) -> float:
    """Seconds per update once a phase is going: the first step tells how many were done before, and one is left out."""
    return (steps[-1] - steps[1]) / (len(steps) - 2)
