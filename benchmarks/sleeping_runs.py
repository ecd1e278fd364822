"""Whole runs of actors that only sleep, on several raylets of this machine: Ray, processes, loop and store are real."""

import asyncio
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from sleepers import CURRENT, SleepingWorker, policy_id, reward_id

from actors.status import keep_status
from actors.telemetry import RunMeter
from actors.timing import keep_times
from actors.worker import WorkerHandle
from cluster.placement import role_names, role_sizes, workers
from cluster.processes import cluster, make_team, places, start_workers
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.files.whole import write_whole
from itercomp_rl.forecast.simulation import Forecast, LightPlan, simulate
from itercomp_rl.forecast.stage_times import StageTimes
from itercomp_rl.items import RewardReport
from itercomp_rl.loop.rounds import Advance, run_rounds
from itercomp_rl.plan import Plan
from itercomp_rl.run.ledger import StoreLedger
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
    """Knows the records that sleepers leave; nothing is painted, so grades hold no scores to compare."""

    def __init__(self, store: Store, plan: Plan) -> None:
        super().__init__(store, plan)
        self._ranks = plan.config.actors.policy_learners.count

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        id_ = reward_id(aspect, version)
        return RewardReport(**self._store.get("rewards", id_).attrs["report"]) if self.has("rewards", id_) else None

    def has_policy(self, version: int) -> bool:
        return all(self.has("policies", policy_id(version, rank)) for rank in range(self._ranks))

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return 0.0, 0.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done to a run so many seconds after a step of one of its phases."""

    phase: str
    step: int
    strike: Callable[[], None]
    delay_s: float = 0.0


class Watch:
    """Satisfies loop.Progress: when phases and updates began and ended; strikes where it is told to."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self.has_struck = False
        self.steps: dict[str, list[float]] = {}
        self._began: dict[tuple[str, int], float] = {}
        self._ended: dict[tuple[str, int], float] = {}

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        steps = self.steps.setdefault(name, [])
        self._began.setdefault((name, round_), time.monotonic())

        def advance(num: int, metrics: Mapping[str, float]) -> None:
            steps.append(time.monotonic())
            if self._fault and (self._fault.phase, self._fault.step) == (name, len(steps)):
                asyncio.get_running_loop().call_later(self._fault.delay_s, self._strike, self._fault)

        try:
            yield advance
        finally:
            self._ended[name, round_] = time.monotonic()

    def _strike(self, fault: Fault) -> None:
        fault.strike()
        self.has_struck = True

    def phase_s(self, phase: str) -> float:
        """Seconds of a phase that a round has once, of all rounds; with the wait where a death begins it anew."""
        return sum(ended - self._began[key] for key, ended in self._ended.items() if key[0] == phase)


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
    before, folder = dict(os.environ), mkdtemp(prefix="r")  # short: sockets lie below it
    here = str(Path(__file__).parent)  # where the processes find the sleepers
    os.environ |= {"RAY_TMPDIR": folder, "PYTHONPATH": os.pathsep.join([here, before.get("PYTHONPATH", "")])}
    raylets = None
    try:
        raylets = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = Nodes(raylets, math.ceil(len(workers(most)) / (NODES - 1)))
        for _ in range(NODES):
            nodes.add()
        yield nodes
    finally:
        try:
            if raylets:
                raylets.shutdown()
        finally:
            os.environ.clear()
            os.environ |= before
            shutil.rmtree(folder, ignore_errors=True)


def kill_node_of(pid: int) -> None:
    """As by a power cut: the raylet that started this process, and all that it started with it, die by signal 9."""
    raylet = psutil.Process(pid).parent()
    assert raylet is not None
    assert "raylet" in raylet.name(), raylet.name()
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it ended with the one before
            process.kill()
    raylet.wait()  # a dead child of this process that nobody waited for seems alive to others


class Bench:
    """One set of processes, used by many runs; a run with lower counts uses some of them."""

    def __init__(self, handles: dict[str, WorkerHandle]) -> None:
        self._handles = handles

    def pid(self, label: str) -> int:
        """The process of a label as it is now."""
        return int(_answer(lambda: self._handles[label].ready.remote())["pid"])

    def wait(self) -> None:
        """Return once all processes answer."""
        for label in self._handles:
            self.pid(label)

    def run(self, config: Config, times: StageTimes, fault: Fault | None = None) -> Watch:
        """A whole run, or what is left of it."""
        config.run_folder.mkdir(parents=True, exist_ok=True)
        used = {spec.label: self._handles[spec.label] for spec in workers(config)}
        store = open_store(config.store_url, create=True, durable=config.store.durable)
        tree = {"name": config.run.name, "store": config.store_url, "times": asdict(times)}
        current = Path(config.run.dir) / CURRENT
        write_whole(current, json.dumps(tree))  # a process that starts meanwhile reads all of it
        for handle in used.values():
            _answer(handle.begin.remote)
        watch = Watch(fault)
        asyncio.run(self._run(config, store, used, watch))
        return watch

    async def _run(self, config: Config, store: Store, used: dict[str, WorkerHandle], watch: Watch) -> None:
        meter = RunMeter(*role_sizes(config))
        team, _ = make_team(config, used, meter)
        plan = Plan(config=config)
        await team.policy_learner.join()  # type: ignore[attr-defined]  # the remote group's own step
        keepers = [
            asyncio.create_task(keep_status(meter, config.run_folder)),
            asyncio.create_task(keep_times(used, config.run_folder)),
        ]
        try:
            await run_rounds(plan, team, SleepingLedger(store, plan), watch)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)


def _answer(ask: Callable[[], Any], limit_s: float = 60.0) -> Any:
    """What a process answers, once it is there again if it died."""
    began = time.monotonic()
    while True:
        try:
            return ray.get(ask())
        except RayActorError:
            if time.monotonic() - began > limit_s:
                raise
            time.sleep(0.2)


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
    """Every stage `factor` times as fast; the spread, a share, stays."""

    def part(value: float | Mapping[str, float]) -> Any:  # Any: of the value's own kind
        return {name: s / factor for name, s in value.items()} if isinstance(value, Mapping) else value / factor

    parts = {name: part(value) for name, value in asdict(times).items() if name != "spread"}
    return StageTimes(**parts, spread=times.spread)


def pace(steps: Sequence[float]) -> float:
    """Seconds per update once a phase is going: the first step tells how many were done before, and one is left out."""
    return (steps[-1] - steps[1]) / (len(steps) - 2)
