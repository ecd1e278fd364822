"""A roller and a policy learner in one process, meeting in the store as in a run: what feedback benchmarks time."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from actors.rolled_network import LearnersNetwork, OwnNetwork, RolledNetwork
from actors.roller import Roller
from itercomp_rl.config.schema import Config
from itercomp_rl.items import PolicyOrder, RewardReport
from itercomp_rl.loop.member_counts import rollers_borrow
from itercomp_rl.plan import Plan
from itercomp_rl.store.store import Store
from learners.engine.spec import Group
from learners.policy import PolicyLearner

ASPECTS = ("attribute", "spatial", "non_spatial")


def feedback_updates(config: Config, store: Store, folder: Path, device: torch.device) -> Callable[[], None]:
    """A call that makes one update; reward models are version 0 of every aspect in the store. folder: a new one."""
    report = RewardReport(aspect="", version=0, accuracy=1.0, num_pairs=1, mean=0.0, std=1.0, weight=1.0)
    order = PolicyOrder(
        round=0,
        start_version=None,
        live_role=f"live-{folder.name}",
        rewards=dict.fromkeys(ASPECTS, report),
        rankings=(),
    )
    seed, plan = config.run.seed, Plan(config=config)
    learner = PolicyLearner(store, config.policy, config.reward.trunk, folder, seed, device, plan.rolled_prompts)
    backend = "nccl" if device.type == "cuda" else "gloo"
    learner.join(Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend=backend))
    learner.open(order)
    if rollers_borrow(config):
        network: RolledNetwork = LearnersNetwork(lambda: learner, config.policy.max_policy_lag)
    else:
        network = OwnNetwork(store, config.policy, device, plan.rolled_prompts)
    roller = Roller(network, config.policy)
    number = 0

    def update() -> None:
        nonlocal number
        first, live = number * plan.rollouts_per_update, (order.live_role, number)
        orders = [plan.rollout_order(0, first + i, live) for i in range(plan.rollouts_per_update)]
        learner.update(number, [roller.roll(order) for order in orders])
        number += 1

    return update


def in_turn(ways: dict[str, Callable[[], None]], updates: int) -> dict[str, list[float]]:
    """Seconds of each way's updates; one after the other, so that a busy machine slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(updates + 1):
        for name, update in ways.items():
            began = time.perf_counter()
            update()
            if number:  # the first one warms up
                found[name].append(time.perf_counter() - began)
    return found
