"""The distributed loop with models that only sleep: real actors, real store, real loop, real Ray on several raylets.

python benchmarks/loop.py --json loop.json
Stage times are known exactly, so that what is measured beside them is the system's own: throughput and utilisation
against the slowest stage for several counts of rollers and samplers, the simulator's error, offloaded rollouts against
a sequential learner, overhead at updates of one second, what autoscale moves, and what each fault costs (recovery.py).
The actors that sleep are in sleepers.py, their runs in sleeping_runs.py.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.ray_job import keep_to_loopback

keep_to_loopback(None)  # before Ray is imported

from measures import measure, write
from recovery import TIMES as FAULT_TIMES
from recovery import recovery, recovery_of_the_driver, recovery_of_the_store
from s3_server import s3_server
from sleeping_runs import Bench, faster, pace, predicted, settings, simulated_nodes, started

from itercomp_rl.config.schema import Config
from itercomp_rl.forecast.simulation import LightPlan
from itercomp_rl.forecast.stage_times import StageTimes

COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of rollers and samplers
SIMULATED = (128, 512)  # beyond what this machine holds
TIMES = StageTimes(draw_image_s={"default": 0.25}, grade_image_s=0.005, roll_s=1.0, learn_update_s=1.0)
AWAY_S = 20.0  # for how long S3 does not answer
AIM: dict[str, Any] = {"aim": 0.95, "better": "higher"}


def ratio(folder: Path, name: str, num: int, updates: int = 8) -> Config:
    """A rollout an update for each roller and 24 images for each sampler, of eight at least; segments of 4 prompts."""
    rollouts = max(8, num)
    return settings(
        folder,
        name,
        f"actors.rollers.count={num}",
        f"actors.samplers.count={num}",
        f"policy.batch={4 * rollouts}",
        f"policy.updates={updates}",
        "policy.max_policy_lag=1",
        f"prompts.gallery={8 * rollouts}",
        "gallery.segment=4",
    )


def ratios(bench: Bench, folder: Path, times: StageTimes, most: int) -> Iterator[dict[str, Any]]:
    """1..`most` rollers and samplers against the slowest stage, and the simulator beyond."""
    errors, call_s = [], 0.0
    for num in [num for num in COUNTS if num <= most]:
        config = ratio(folder, f"ratio-{num}", num)
        said, watch = predicted(config, times), bench.run(config, times)
        update_s = pace(watch.steps["policy"])
        yield from shares(str(num), config, times, update_s, watch.phase_s("gallery"))
        errors += [abs(said.phase_s(phase) / watch.phase_s(phase) - 1) for phase in ("gallery", "policy")]
        rollouts = config.policy.batch // config.policy.rollout_batch
        call_s = max(0.0, update_s - max(times.learn_update_s, rollouts * times.roll_s / num)) / rollouts
    yield measure(f"{most} rollers and samplers: what a rollout costs besides its stages", call_s, "s")
    slower = replace(times, call_s=call_s)
    for num in [num for num in (*COUNTS, *SIMULATED) if num >= most]:
        short, long = (predicted(ratio(folder, f"simulated-{num}", num, updates), slower) for updates in (30, 60))
        update_s = (long.phase_s("policy") - short.phase_s("policy")) / 30
        yield from shares(f"{num} simulated", ratio(folder, "simulated", num), times, update_s, long.phase_s("gallery"))
    yield measure("simulator: mean error of a phase's time", statistics.mean(errors), "share", aim=0.1)
    yield measure("simulator: largest error of a phase's time", max(errors), "share")


def shares(who: str, config: Config, times: StageTimes, update_s: float, gallery_s: float) -> Iterator[dict[str, Any]]:
    """What rollers and samplers reach of the slowest stage's speed, and the share of time in which they work.

    Args: update_s: seconds per update once the phase is going; gallery_s: seconds of the gallery phase.
    """
    plan = LightPlan(config=config)
    orders = [order for segment in range(len(plan.segments())) for order in plan.draw_orders(0, segment)]
    drawing_s = sum(times.draw_s(order.model, len(order.prompts)) for order in orders)
    rolling_s = plan.rollouts_per_update * times.roll_s
    num, who = config.actors.rollers.count, f"{who} rollers and samplers"
    bound_s = max(times.learn_update_s, rolling_s / num)
    yield measure(f"{who}: updates, of what the slowest stage allows", bound_s / update_s, "share", **AIM)
    yield measure(f"{who}: images, of what the samplers allow", drawing_s / num / gallery_s, "share", **AIM)
    for role, busy_s in (("rollers", rolling_s / num), ("learner", times.learn_update_s)):
        yield measure(f"{who}: the {role} work", busy_s / update_s, "share", better="higher")
        yield measure(f"{who}: the {role} could work", busy_s / bound_s, "share", better="higher")


def offloading(bench: Bench, folder: Path, times: StageTimes) -> Iterator[dict[str, Any]]:
    """Updates of a second and four rollouts of a quarter: a learner that waits for each rollout, and four rollers."""
    times = replace(times, roll_s=times.learn_update_s / 4)
    shared = ["policy.batch=16", "policy.updates=9", "prompts.gallery=60", "gallery.segment=60"]
    shared.append("actors.samplers.count=4")
    alone = settings(folder, "alone", *shared, "actors.rollers.count=1")
    helped = settings(folder, "helped", *shared, "policy.max_policy_lag=1", "actors.rollers.count=4")
    sequential = pace(bench.run(alone, times).steps["policy"])
    offloaded = pace(bench.run(helped, times).steps["policy"])
    yield measure("sequential: updates per second", 1 / sequential, "1/s", better="higher")
    yield measure("offloaded to four rollers: updates per second", 1 / offloaded, "1/s", better="higher")
    yield measure("offloaded against sequential (ideal: 2)", sequential / offloaded, "ratio", better="higher")
    overhead = offloaded / times.learn_update_s - 1
    yield measure(
        f"driver, Ray and store: overhead of an update of {times.learn_update_s:g} s", overhead, "share", aim=0.05
    )


def autoscale(address: str, folder: Path, times: StageTimes) -> Iterator[dict[str, Any]]:
    """Four samplers and four rollers that keep to their work, and the same eight processes that do what there is."""
    times = replace(times, learn_update_s=times.roll_s / 2)
    fixed = ratio(folder, "fixed", 4)
    moving = ratio(folder, "moving", 4)
    moving = replace(moving, actors=replace(moving.actors, autoscale=True, min_samplers=0, min_rollers=0))
    found = {}
    for config in (fixed, moving):
        with started(config, address) as bench:
            watch = bench.run(config, times)
            found[config.run.name] = watch.phase_s("gallery"), pace(watch.steps["policy"])
    for place, what in enumerate(("images", "updates")):
        gain = found["fixed"][place] / found["moving"][place]
        yield measure(f"autoscale, 4 samplers and 4 rollers: {what} faster (ideal: 2)", gain, "ratio", better="higher")


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="Where to write the measures.")
    parser.add_argument("--most", type=int, choices=COUNTS[2:], default=COUNTS[-1], help="More are simulated.")
    parser.add_argument("--speed", type=float, default=1.0, help="How many times as fast every stage is.")
    arguments = parser.parse_args()
    times, fault_times = (faster(known, arguments.speed) for known in (TIMES, FAULT_TIMES))
    with tempfile.TemporaryDirectory() as name, s3_server() as server:
        folder = Path(name)
        most = ratio(folder, "most", arguments.most)
        began = time.monotonic()
        with simulated_nodes(most) as nodes:
            with started(most, nodes.address) as bench:
                print(f"all processes are up after {time.monotonic() - began:.0f} s")
                measures = [
                    *ratios(bench, folder, times, arguments.most),
                    *offloading(bench, folder, times),
                    *recovery(bench, nodes, folder, fault_times),
                    *recovery_of_the_store(bench, server, folder, fault_times, AWAY_S / arguments.speed),
                ]
            measures += recovery_of_the_driver(nodes, folder, fault_times)
            measures += autoscale(nodes.address, folder, times)
        print(f"all of it took {time.monotonic() - began:.0f} s")
    if arguments.json:
        write(arguments.json, measures)


if __name__ == "__main__":
    main()
