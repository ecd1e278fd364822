"""What rollouts of older weights cost: a round of feedback learning in which each is exactly so many updates old.

python benchmarks/staleness.py runs/quickstart --json staleness.json --lags 0 1 4 16 --points 1 4
From each finished run its first round's gallery, rankings and reward models are taken; the policy learns anew from the
base, in this one process, and is graded as in a run. Some three minutes for each lag and number of points; what is
there already (under --dir) is read, not repeated.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from gains import Gains, gains_of, gains_over
from measures import measure, write

from actors.judge import Judge
from actors.rolled_network import OwnNetwork
from actors.roller import Roller
from actors.sampler import Sampler
from cluster.run_folder import load_run
from itercomp_rl.config.load import config_from, to_tree
from itercomp_rl.config.schema import Config
from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.items import PolicyOrder, RewardReport
from itercomp_rl.plan import Plan
from itercomp_rl.run.reuse import reusable, take_over
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import reward_role
from itercomp_rl.store.retention import MIN_VERSIONS, collect
from itercomp_rl.store.store import open_store
from learners.engine.spec import Group
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
            for run, aspects in zip(options.runs, found, strict=True):
                measures += as_measures(f"{name}/{run.name}", gains_of(aspects))
            measures += as_measures(f"{name}/{len(found)} runs", gains_over(found))
            write(options.json, measures)  # after every one: minutes lie between them


def as_measures(name: str, gains: Gains) -> list[dict[str, Any]]:
    """Each gain with its error."""
    return [
        measure(f"{name}/{aspect} gain", gain, "score", better="higher", se=error)
        for aspect, (gain, error) in gains.items()
    ]


def result(run: Path, lag: int, points: int, folder: Path) -> dict[str, Any]:
    """The `aspects` of results.json of a policy, learned first if they are not there."""
    file = folder / f"{run.name}-lag{lag}-points{points}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        tree = {"aspects": learned(run, lag, points, file.with_suffix("")), "seconds": time.monotonic() - began}
        file.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))["aspects"]


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
        aspect: RewardReport(**weights.open_version(store, reward_role(aspect), 0).attrs["report"])
        for aspect in config.prompts.aspects
    }
    order = PolicyOrder(round=0, start_version=None, live_role="live-stale", rewards=reports, rankings=plan.rankings(0))
    texts = plan.rolled_prompts
    trunk, seed = config.reward.trunk, config.run.seed
    learner = PolicyLearner(store, config.policy, trunk, folder / "checkpoints", seed, CPU, texts)
    learner.join(Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend="gloo"))
    roller = Roller(OwnNetwork(store, config.policy, CPU, texts), config.policy)
    for number in range(learner.open(order), config.policy.updates):
        live = (order.live_role, max(0, number - lag))
        first = number * plan.rollouts_per_update
        orders = [plan.rollout_order(0, first + i, live) for i in range(plan.rollouts_per_update)]
        metrics = learner.update(number, [roller.roll(one) for one in orders])
        if number % 10 == 0:
            rewards = {name: round(value, 2) for name, value in metrics.items() if name.startswith("reward_")}
            log.info("%s: update %d of %d, %s", folder.name, number, config.policy.updates, rewards)
            versions = max(MIN_VERSIONS, lag + 1)  # no roller reads an older one
            collect(store, grace_s=0.0, now=time.time(), keep_versions=versions, orphan_age_s=None)
    learner.publish(reports)
    sampler, judge = Sampler(store, config.gallery, CPU), Judge(store, config, CPU)
    for drawing in plan.evaluation_orders(plan.policy(0)):
        sampler.draw(drawing)
        judge.grade(drawing.id)
    return aspects_tree(store, plan)


if __name__ == "__main__":
    main()
