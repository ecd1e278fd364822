"""The store of a run of two rounds, written in the forms that its actors write, without any model."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cluster.run_folder import prepare_folder
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.items import DrawOrder, RewardReport
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.ranking import Ranking, rank_by_score
from itercomp_rl.ranking.records import Judged, rankings_attrs
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store


def small_run(folder: Path) -> tuple[Config, Store]:
    """A run folder `folder`/small with settings and store: both rounds drawn, ranked, rewarded and published."""
    config = load_config("tiny", [f"run.dir={folder}", "run.name=small", "judge.later_rounds=oracle"])
    prepare_folder(config, resume=False)
    store = open_store(config.store_url, create=True, durable=False)
    plan = Plan(config=config)
    for round_ in range(config.run.rounds):
        for segment in range(len(plan.segments())):
            for order in plan.draw_orders(round_, segment):
                _draw(store, order)
            _rank(store, plan, round_, segment)
        _learn(store, plan, round_)
    return config, store


def _draw(store: Store, order: DrawOrder) -> None:
    rng = np.random.default_rng(order.seeds[0] % 2**32)
    images = rng.integers(0, 256, (len(order.prompts), 8, 8, 3), dtype=np.uint8)
    attrs = {
        "round": order.round,
        "model": order.model.name,
        "checkpoint": order.model.checkpoint,
        "policy_version": order.model.version,
        "num_steps": order.model.num_steps,
        "guidance": order.model.guidance,
        "prompts": [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in order.prompts],
    }
    store.put(order.kind, order.id, {"images": images, "seeds": np.array(order.seeds, np.int64)}, attrs)


def _rank(store: Store, plan: Plan, round_: int, segment: int) -> None:
    order = plan.rank_order(round_, segment)
    rng = np.random.default_rng(segment)
    rankings = []
    for prompt, images in zip(order.prompts, order.images, strict=True):
        scores = {model: float(rng.random()) for model in images}
        places = rank_by_score(scores)
        rankings.append(
            {
                aspect: Judged(ranking=Ranking(prompt_id=prompt.id, aspect=aspect, places=places), scores=scores)
                for aspect in prompt.aspects
            }
        )
    store.put("rankings", order.id, {}, rankings_attrs(order, rankings))


def _learn(store: Store, plan: Plan, round_: int) -> None:
    rankings = list(plan.rankings(round_))
    reports = {}
    for aspect in plan.config.prompts.aspects:
        report = RewardReport(aspect=aspect, version=round_, accuracy=0.75, num_pairs=9, mean=0.0, std=1.0, weight=1.0)
        reports[aspect] = asdict(report)
        base = round_ - 1 if round_ else None
        attrs = {"report": reports[aspect], "round": round_, "base": base, "rankings": rankings}
        weights.publish(store, f"reward-{aspect}", round_, {"w": torch.ones(4)}, attrs)
    attrs = {
        "round": round_,
        "base": plan.config.policy.model,
        "base_policy": round_ - 1 if round_ else None,
        "rewards": reports,
        "rankings": rankings,
        "updates": plan.config.policy.updates,
        "seed": plan.config.run.seed,
    }
    weights.publish(store, "policy", round_, {"w": torch.full((4,), float(round_))}, attrs)
