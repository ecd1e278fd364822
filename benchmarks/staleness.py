"""What rollouts of older weights cost: a round of feedback learning in which each is exactly so many updates old.

python benchmarks/staleness.py runs/quickstart --json staleness.json --lags 0 1 4 16 --points 1 4
From each finished run its first round's gallery, rankings and reward models are taken; the policy learns anew from the
base, in this one process, and is graded as in a run. Some three minutes for each lag and number of points; what is
there already (under --dir) is read, not repeated.
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from measures import measure, write

from actors.judge import Judge
from actors.roller import Roller
from actors.sampler import Sampler
from cluster.run_folder import load_run
from itercomp_rl.config import config_from, to_tree
from itercomp_rl.items import PolicyOrder, RewardReport
from itercomp_rl.judges.reward import reward_role
from itercomp_rl.plan import Plan
from itercomp_rl.results import aspects_tree
from itercomp_rl.reuse import reusable, take_over
from itercomp_rl.schema import Config
from itercomp_rl.store import weights
from itercomp_rl.store.store import open_store
from learners.engine import Group
from learners.policy import PolicyLearner

CPU = torch.device("cpu")
log = logging.getLogger("staleness")


def main() -> None:
    """Learn what is missing, then write the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="Finished runs, as a rule of different seeds.")
    parser.add_argument("--lags", nargs="+", type=int, default=[0, 1, 4, 16])
    parser.add_argument("--points", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--dir", type=Path, default=Path("runs/staleness"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    measures: list[dict[str, Any]] = []
    for points in options.points:
        for lag in options.lags:
            name = f"{points} points per rollout, {lag} updates old"
            found = [result(run, lag, points, options.dir) for run in options.runs]
            for run, tree in zip(options.runs, found, strict=True):
                measures += measures_of(f"{name}/{run.name}", tree)
            measures += over_runs(name, found)
            write(options.json, measures)  # after every one: minutes lie between them


def measures_of(name: str, tree: dict[str, Any]) -> list[dict[str, Any]]:
    """One policy: its paired gain over the base per aspect and in the mean, with errors over prompts."""
    gains = {aspect: found["paired_gain"] for aspect, found in tree["aspects"].items()}
    # The aspects share images: the error of their mean is at most the mean of their errors.
    gains["mean"] = {key: fmean(gain[key] for gain in gains.values()) for key in ("mean", "se")}
    return [
        measure(f"{name}/{aspect} gain", gain["mean"], "score", better="higher", se=gain["se"])
        for aspect, gain in gains.items()
    ]


def over_runs(name: str, trees: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over runs of the mean gain, with the error that their spread gives; nothing for one run."""
    if len(trees) < 2:
        return []
    gains = [fmean(found["paired_gain"]["mean"] for found in tree["aspects"].values()) for tree in trees]
    error = stdev(gains) / math.sqrt(len(gains))
    return [measure(f"{name}/{len(gains)} runs/mean gain", fmean(gains), "score", better="higher", se=error)]


def result(run: Path, lag: int, points: int, folder: Path) -> dict[str, Any]:
    """{"aspects": as in results.json, "seconds"} of a policy, learned first if it is not there."""
    file = folder / f"{run.name}-lag{lag}-points{points}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        tree = {"aspects": learned(run, lag, points, file.with_suffix("")), "seconds": time.monotonic() - began}
        file.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def config_of(run: Path, points: int) -> Config:
    """The run's own settings, for one round and one learner."""
    tree = to_tree(load_run(run)[0])
    tree["run"]["rounds"] = 1
    # The learner's rollouts come as the loop would order them; their age is set here, version by version.
    tree["policy"] |= {"points_per_rollout": points, "max_policy_lag": 0}
    tree["policy"]["engine"] |= {"kind": "plain", "zero_stage": 0}
    tree["actors"]["policy_learners"]["count"] = 1
    tree["evaluation"]["seen_images_per_aspect"] = 0
    return config_from(tree)


def learned(run: Path, lag: int, points: int, folder: Path) -> dict[str, Any]:
    """The `aspects` of results.json of a policy whose rollouts were each `lag` updates old, the first ones less."""
    config = config_of(run, points)
    plan = Plan(config=config)
    old, source = load_run(run)
    store = open_store((folder / "store").as_uri(), create=True, durable=False)
    take_over(reusable(Plan(config=old), plan), source, store)
    reports = {
        aspect: RewardReport(**weights.load_attrs(store, reward_role(aspect), 0)["report"])
        for aspect in config.prompts.aspects
    }
    order = PolicyOrder(round=0, start_version=None, live_role="live-stale", rewards=reports, rankings=plan.rankings(0))
    texts = plan.rolled_prompts
    trunk, seed = config.reward.trunk, config.run.seed
    learner = PolicyLearner(store, config.policy, trunk, folder / "checkpoints", seed, CPU, texts)
    learner.join(Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend="gloo"))
    roller = Roller(store, config.policy, CPU, texts)
    for number in range(learner.open(order), config.policy.updates):
        live = (order.live_role, max(0, number - lag))
        first = number * plan.rollouts_per_update
        orders = [plan.rollout_order(0, first + i, live) for i in range(plan.rollouts_per_update)]
        metrics = learner.update(number, [roller.roll(one) for one in orders])
        if number % 10 == 0:
            rewards = {name: round(value, 2) for name, value in metrics.items() if name.startswith("reward_")}
            log.info("%s: update %d of %d, %s", folder.name, number, config.policy.updates, rewards)
    learner.publish(reports)
    sampler, judge = Sampler(store, config.gallery, CPU), Judge(store, config, CPU)
    for drawing in plan.evaluation_orders(plan.policy(0)):
        sampler.draw(drawing)
        judge.grade(drawing.id)
    return aspects_tree(store, plan)


if __name__ == "__main__":
    main()
