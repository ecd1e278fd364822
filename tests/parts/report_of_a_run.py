"""A small finished run put into a store by hand: images of noise, chosen grades, the shipped trunk as reward models."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import DrawOrder, RewardReport
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.ranking.records import Judged, rankings_attrs
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store

OVERRIDES = ["run.rounds=1", "run.name=by hand", "prompts.gallery=12", "gallery.segment=12"]


@dataclass(frozen=True, kw_only=True)
class HandMade:
    """A run: its store, plan and folder."""

    store: Store
    plan: Plan
    folder: Path


def score(model: str, place: int) -> float:
    """Grade of held-out image `place`: .25 everywhere for the base, .75 after the round but for 0 at places 3 and 5."""
    if model != "policy-0":
        return 0.25
    return 0.0 if place in (3, 5) else 0.75


def make_run(folder: Path) -> HandMade:
    """One finished round of the tiny config; results.json is not there yet."""
    plan = Plan(config=load_config("tiny", OVERRIDES))
    store = open_store("memory://", create=True)
    rng = np.random.default_rng(0)
    for order in plan.draw_orders(0, 0):
        put_images(store, order, rng)
    put_rankings(store, plan)
    for model in plan.evaluated():
        for split in ("test", "train"):
            place = 0
            for order in plan.evaluation_orders(model, split):
                put_images(store, order, rng)
                rows = []
                for prompt in order.prompts:
                    grades = {aspect: [score(model.name, place), False] for aspect in prompt.aspects}
                    rows.append({"prompt": prompt.id, "grades": grades, "off_palette": 0.01})
                    place += 1
                store.put("grades", order.id, {}, {"model": model.name, "rows": rows})
        for measured in plan.measure_orders(model):
            rows = [{"prompt": prompt.id, "loss": 0.5 + 0.1 * (model.version == 0)} for prompt in measured.prompts]
            store.put("losses", measured.id, {}, {"rows": rows})
    put_weights(store, plan)
    (folder / "metrics.jsonl").write_text("".join(metric_lines()) + '{"time": 1, "round"')
    return HandMade(store=store, plan=plan, folder=folder)


def put_images(store: Store, order: DrawOrder, rng: np.random.Generator) -> None:
    images = rng.integers(256, size=(len(order.prompts), 32, 32, 3), dtype=np.uint8)
    store.put(order.kind, order.id, {"images": images}, {})


def put_rankings(store: Store, plan: Plan) -> None:
    order = plan.rank_order(0, 0)
    rankings = [{aspect: judged(prompt.id, aspect) for aspect in prompt.aspects} for prompt in order.prompts]
    store.put("rankings", order.id, {}, rankings_attrs(order, rankings))


def judged(prompt: str, aspect: str) -> Judged:
    return Judged(
        ranking=Ranking(prompt_id=prompt, aspect=aspect, places=(("spatial",), ("base",), ("attribute",))),
        scores={"spatial": 0.9, "base": 0.5, "attribute": 0.1},
    )


def put_weights(store: Store, plan: Plan) -> None:
    trunk = load_reward(Path(checkpoint_path(plan.config.reward.trunk))).state_dict()
    for aspect in plan.config.prompts.aspects:
        report = RewardReport(aspect=aspect, version=0, accuracy=0.8, num_pairs=40, mean=0.0, std=1.0, weight=1.0)
        attrs = {"report": {name: getattr(report, name) for name in RewardReport.__slots__}}
        weights.publish(store, f"reward-{aspect}", 0, trunk, attrs)
    attrs = {"base": plan.config.policy.model, "base_policy": None, "updates": 4}
    weights.publish(store, "policy", 0, {"w": torch.ones(3)}, attrs)


def metric_lines() -> list[str]:
    found = []
    for step in range(200):
        for name, value in (
            ("policy/refl_loss", 5 - step / 100),
            ("policy/reward_spatial", step / 200),
            ("policy/lag_updates", 0),
            ("utilisation/roller", 0.5),
        ):
            found.append({"time": 1000.0 + step, "round": 0, "step": step, "name": name, "value": value})
    for i, phase in enumerate(("gallery", "rewards", "policy")):
        found.append({"time": 1100.0 + 50 * i, "round": 0, "step": 0, "name": f"time/{phase}_s", "value": 50.0})
    return [json.dumps(line) + "\n" for line in found]
