"""One rank of the policy learner's tests, as a process: every case learns from the same rollouts and publishes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.rolled_network import LearnersNetwork, OwnNetwork, RolledNetwork
from actors.roller import Roller
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.items import PolicyOrder, RewardReport, RolloutOrder
from itercomp_rl.plan import Plan
from itercomp_rl.store.store import Store, open_store
from learners.engine.spec import Group
from learners.policy import PolicyLearner

CPU = torch.device("cpu")
UPDATES = 3
BASE = ("live-base", 0)  # role and version that every rollout is drawn under
GALLERY = "r000-00000"  # the rankings record of each case's store


def settings(folder: Path, *overrides: str) -> Config:
    """Four rollouts of one image and two gradient points an update, on the SDXL in `folder`."""
    return load_config(
        "tiny",
        [
            f"policy.model={folder}/sdxl",
            "policy.size_px=32",
            "policy.num_steps=6",
            "policy.scheduler=ddpm",
            "policy.batch=4",
            "policy.rollout_batch=1",
            "policy.points_per_rollout=2",
            f"policy.updates={UPDATES}",
            "policy.checkpoint_every=100",
            "policy.pretraining_weight=0",
            "policy.lora.alpha=4",
            "policy.engine.lr=1e-3",
            "policy.engine.ema=0.5",
            "actors.policy_learners.count=2",
            *overrides,
        ],
    )


def learn(folder: Path, cases: dict[str, list[str]], group: Group) -> dict[str, list[float]]:
    """Gradient norms of every update by case; each case has a store of its own, `<folder>/<case>/store`."""
    config = settings(folder)
    plan = Plan(config=config)
    roller = Roller(
        OwnNetwork(open_store((folder / "store").as_uri()), config.policy, CPU, plan.rolled_prompts), config.policy
    )
    rollouts = [roller.roll(plan.rollout_order(0, index, BASE)) for index in range(4 * UPDATES)]
    report = RewardReport(aspect="attribute", version=0, accuracy=1.0, num_pairs=9, mean=0.0, std=1.0, weight=1.0)
    rewards = {aspect: replace(report, aspect=aspect) for aspect in ("attribute", "spatial")}
    order = PolicyOrder(round=0, start_version=None, live_role="live", rewards=rewards, rankings=(GALLERY,))
    norms = {}
    for name, overrides in cases.items():
        store, chosen = open_store((folder / name / "store").as_uri()), settings(folder, *overrides)
        learner = PolicyLearner(
            store, chosen.policy, chosen.reward.trunk, folder / name, chosen.run.seed, CPU, plan.rolled_prompts
        )
        learner.join(group)
        learner.open(order)
        batches = [rollouts[start : start + 4] for start in range(0, 4 * UPDATES, 4)]
        shares = [batch[group.rank :: group.world_size] for batch in batches]
        norms[name] = [learner.update(number, share, 4)["grad_norm"] for number, share in enumerate(shares)]
        if chosen.policy.engine.zero_stage < 3:
            check_borrowed(learner, chosen, store, Plan(config=chosen).rollout_order(0, 0, ("live", UPDATES)))
        learner.publish(order.rewards)
    return norms


def check_borrowed(learner: PolicyLearner, config: Config, store: Store, order: RolloutOrder) -> None:
    """Whatever engine is around the learner's network, it rolls out the version that it published, bit for bit."""
    own = OwnNetwork(store, config.policy, CPU, [prompt.text for prompt in order.prompts], as_learners=True)
    borrowed = LearnersNetwork(lambda: learner, config.policy.max_policy_lag)
    networks: tuple[RolledNetwork, ...] = (own, borrowed)
    one, other = (Roller(network, config.policy).roll(order) for network in networks)
    assert one.version == other.version == UPDATES
    assert np.array_equal(one.latents, other.latents)


def be_a_rank(orders: dict[str, Any], rank: int, port: int) -> None:
    group = Group(rank=rank, world_size=2, master_addr="127.0.0.1", master_port=port, timeout_s=600.0, backend="gloo")
    folder = Path(orders["folder"])
    found = learn(folder, orders["cases"], group)
    (folder / f"norms-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    be_a_rank(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
