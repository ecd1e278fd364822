"""The distributed loop with models that only sleep: real actors, real store, real loop, real Ray.

python benchmarks/loop.py --json loop.json
Stage times are known exactly, so that what is measured beside them is the system's own: throughput against the slowest
stage for several counts of rollers and samplers, offloaded rollouts against a sequential learner, overhead at updates
of one second, the simulator's error, time lost by a killed actor. The actors that sleep are in sleepers.py.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from measures import measure, write
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

COUNTS = (1, 2, 4, 8)  # of rollers and samplers, on real processes
TIMES = StageTimes(
    draw_image_s={"default": 0.125}, rank_image_s=0.005, grade_image_s=0.005, roll_s=0.5, learn_update_s=0.5
)


class SleepingLedger(StoreLedger):
    """Nothing is painted, so grades hold no scores to compare."""

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return 0.0, 0.0


class Watch:
    """Satisfies loop.Progress: when phases and updates began and ended; kills somebody where it is told to."""

    def __init__(self, kill: tuple[str, int] | None, pid: int) -> None:
        self._kill, self._pid = kill, pid
        self.phases: dict[str, float] = {}
        self.steps: dict[str, list[float]] = {}

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        began, steps = time.monotonic(), self.steps.setdefault(name, [])

        def advance(num: int, metrics: Mapping[str, float]) -> None:
            steps.append(time.monotonic())
            if self._kill == (name, len(steps)):
                os.kill(self._pid, signal.SIGKILL)

        try:
            yield advance
        finally:  # a phase that a death ends begins again
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began


def settings(folder: Path, name: str, *overrides: str) -> Config:
    """A config of the sleeping runs; evaluation is as short as can be."""
    return load_config(
        "tiny",
        [
            f"run.dir={folder}",
            f"run.name={name}",
            "run.rounds=1",
            "actors.layout=separate",
            "actors.reward_learners.count=1",
            "actors.policy_learners.count=1",
            *(f"actors.{role}.cpus=0.01" for role in ("samplers", "judges", "rollers", "reward_learners")),
            "actors.policy_learners.cpus=0.01",
            "actors.start_timeout_s=300",
            "evaluation.images_per_aspect=4",
            "evaluation.denoising_images=0",
            "evaluation.max_drop=null",
            *overrides,
        ],
    )


class Bench:
    """One set of processes, used by all runs; a run with lower counts uses some of them."""

    def __init__(self, handles: dict[str, WorkerHandle]) -> None:
        self.handles = handles

    def run(self, config: Config, times: StageTimes, kill: tuple[str, str, int] | None = None) -> Watch:
        """A whole run. kill: process, and the phase and its step at which it is killed."""
        config.run_folder.mkdir(parents=True)
        used = {spec.label: self.handles[spec.label] for spec in workers(config)}
        tree = {"name": config.run.name, "times": asdict(times)}
        (Path(config.run.dir) / CURRENT).write_text(json.dumps(tree))
        ray.get([handle.begin.remote() for handle in used.values()])
        store = open_store(config.store_url, create=True, durable=config.store.durable)
        facts: Any = ray.get(used[kill[0]].ready.remote()) if kill else {"pid": 0}  # Any: what Worker.ready says
        pid = int(facts["pid"])
        watch = Watch(kill[1:] if kill else None, pid)
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


class PromptPlan(LightPlan):
    """Orders of rollouts with their prompts, as real rollers get them."""

    def rollout_order(self, round_: int, index: int, live: tuple[str, int]) -> RolloutOrder:
        size = self.config.policy.rollout_batch
        order = super().rollout_order(round_, index, live)
        return replace(order, prompts=tuple(self.policy_prompts[:size]), seeds=(0,) * size, mid_steps=((1,) * size,))


def predicted(config: Config, times: StageTimes) -> Forecast:
    """What the simulator says of the same run."""
    return simulate(LightPlan(config=config), times, role_names(workers(config)))


def pace(steps: Sequence[float]) -> float:
    """Seconds per step once a phase is going: the first is left out."""
    return (steps[-1] - steps[0]) / (len(steps) - 1)


def ratios(bench: Bench, folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """1..`most` rollers and samplers against the slowest stage, and the simulator beyond."""
    errors = []
    for num in [num for num in COUNTS if num <= most]:
        config = ratio(folder, f"ratio-{num}", num)
        watch, said = bench.run(config, TIMES), predicted(config, TIMES)
        updates = watch.steps["policy"][1:]  # the first step tells how many were done before
        bound = max(TIMES.learn_update_s, 8 * TIMES.roll_s / num)
        drawing = LightPlan(config=config)
        seconds = sum(
            TIMES.draw_s(order.model, len(order.prompts)) for i in range(16) for order in drawing.draw_orders(0, i)
        )
        yield measure(f"{num} rollers: updates against the slowest stage", bound / pace(updates), "ratio", **AIM)
        yield measure(
            f"{num} samplers: images against the slowest stage", seconds / num / watch.phases["gallery"], "ratio", **AIM
        )
        busy = 8 * TIMES.roll_s / num / pace(updates)
        yield measure(f"{num} rollers: utilisation", min(1.0, busy), "share", better="higher")
        yield measure(f"{num} rollers: utilisation at the bound", 8 * TIMES.roll_s / num / bound, "share")
        errors += [abs(said.phase_s(phase) / watch.phases[phase] - 1) for phase in ("gallery", "policy")]
    yield measure("simulator: mean error of a phase's time", statistics.mean(errors), "share", aim=0.1)
    yield measure("simulator: largest error of a phase's time", max(errors), "share")
    for num in (16, 32, 64, 1024):
        config = ratio(folder, f"simulated-{num}", num, f"policy.batch={4 * num}", "policy.updates=60")
        said = simulate(LightPlan(config=config), TIMES, role_names(workers(config)))
        bound = config.policy.updates * max(TIMES.learn_update_s, TIMES.roll_s)
        share = bound / said.phase_s("policy")
        yield measure(f"{num} rollers, simulated: updates against the slowest stage", share, "ratio", **AIM)


def ratio(folder: Path, name: str, num: int, *more: str) -> Config:
    """Eight rollouts an update; 16 segments of 4 prompts for three models."""
    return settings(
        folder,
        name,
        f"actors.rollers.count={num}",
        f"actors.samplers.count={num}",
        "policy.batch=32",
        "policy.updates=6",
        "policy.max_policy_lag=1",
        "prompts.gallery=64",
        "gallery.segment=4",
        "reward.updates=0",
        *more,
    )


def offloading(bench: Bench, folder: Path) -> Iterator[dict[str, Any]]:
    """Updates of a second and four rollouts of a quarter: a learner that waits for each rollout, and four rollers."""
    times = replace(TIMES, draw_image_s={"default": 0.01}, roll_s=0.25, learn_update_s=1.0)
    shared = ["policy.batch=16", "policy.updates=9", "reward.updates=0", "prompts.gallery=60", "gallery.segment=60"]
    alone = settings(folder, "alone", *shared, "actors.rollers.count=1", "actors.samplers.count=4")
    helped = settings(
        folder, "helped", *shared, "policy.max_policy_lag=1", "actors.rollers.count=4", "actors.samplers.count=4"
    )
    sequential = pace(bench.run(alone, times).steps["policy"][1:])
    offloaded = pace(bench.run(helped, times).steps["policy"][1:])
    yield measure("sequential: updates per second", 1 / sequential, "1/s", better="higher")
    yield measure("offloaded to four rollers: updates per second", 1 / offloaded, "1/s", better="higher")
    yield measure("offloaded against sequential (ideal: 2)", sequential / offloaded, "ratio", better="higher")
    overhead = offloaded / times.learn_update_s - 1
    yield measure("driver, Ray and store: overhead of an update of one second", overhead, "share", aim=0.05)


def recovery(bench: Bench, folder: Path) -> Iterator[dict[str, Any]]:
    """Seconds that a run lasts longer when a process is killed in its middle."""
    times = replace(TIMES, draw_image_s={"default": 0.1}, roll_s=0.4, learn_update_s=0.5)

    def config(name: str) -> Config:
        return settings(
            folder,
            name,
            "actors.rollers.count=2",
            "actors.samplers.count=2",
            "policy.batch=16",
            "policy.updates=8",
            "policy.max_policy_lag=1",
            "prompts.gallery=60",
            "gallery.segment=10",
            "reward.updates=0",
        )

    whole = bench.run(config("undisturbed"), times).phases
    kills = (("roller-0", "policy", 5), ("sampler-0", "gallery", 6), ("policy_learner-0", "policy", 5))
    for label, phase, step in kills:
        spent = bench.run(config(f"without-{label}"), times, (label, phase, step)).phases[phase]
        role = label.rpartition("-")[0]
        yield measure(f"a {role} killed: its phase lasts longer by", spent - whole[phase], "s")


AIM: dict[str, Any] = {"aim": 0.95, "better": "higher"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="Where to write the measures.")
    parser.add_argument(
        "--most", type=int, choices=COUNTS[2:], default=COUNTS[-1], help="Rollers and samplers started."
    )
    arguments = parser.parse_args()
    most = arguments.most
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = settings(folder, "all", f"actors.rollers.count={most}", f"actors.samplers.count={most}")
        began = time.monotonic()
        specs = workers(config)
        with cluster(None), places(config, specs) as options:
            bench = Bench(start_workers(config, specs, options, worker=SleepingWorker))
            print(f"{len(bench.handles)} processes are up after {time.monotonic() - began:.0f} s")
            measures = [*ratios(bench, folder, most), *offloading(bench, folder), *recovery(bench, folder)]
        print(f"all of it took {time.monotonic() - began:.0f} s")
    if arguments.json:
        write(arguments.json, measures)


if __name__ == "__main__":
    main()
