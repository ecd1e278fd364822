"""This module reports other metrics beside the scores, and the side effects that a gain may have had.

The side effects are forgetting (denoising loss), artefacts (off-palette pixels) and memorised combinations (scores on
seen prompts minus scores on unseen ones).
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from itercomp_rl.config.schema import BASE, policy_name
from itercomp_rl.evaluation.scores import aspects_tree, gain, load_metric, off_palette_mean, score
from itercomp_rl.evaluation.statistics import clustered_mean
from itercomp_rl.plan import Plan
from itercomp_rl.store.kinds import LOSSES
from itercomp_rl.store.store import Store

Cell: TypeAlias = dict[str, float | int]  # a mean with its standard error, and n where images were counted


def side_effects_tree(store: Store, plan: Plan, aspects: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of results.json beside `aspects`; those that the config leaves out are not there."""
    evaluation = plan.config.evaluation
    found: dict[str, Any] = {}
    if evaluation.metrics:
        found["metrics"] = {name: metric_tree(store, plan, name) for name in evaluation.metrics}
    if evaluation.denoising_images:
        found["denoising_loss"] = denoising_tree(store, plan)
    if evaluation.judge == "oracle":
        found["off_palette"] = {
            model.name: mean.tree()
            for model in plan.evaluated()
            if (mean := off_palette_mean(store, [order.id for order in plan.evaluation_orders(model)]))
        }
    if evaluation.seen_images_per_aspect:
        found["aspects_seen"] = aspects_tree(store, plan, "train")
        found["seen_minus_unseen"] = seen_minus_unseen(found["aspects_seen"], aspects)
    return found


def metric_tree(store: Store, plan: Plan, name: str) -> dict[str, Any]:
    """The mean of one of evaluation.metrics for every model, and the gains of the rounds, paired with the base."""
    graded = {model.name: load_metric(store, plan, model, name) for model in plan.evaluated()}
    base, *rounds = (graded[model.name] for model in plan.policies())
    return {
        "source": plan.config.evaluation.metrics[name],
        "models": {model: score(scores).tree() for model, scores in graded.items() if scores},
        "paired_gain_by_round": [gain(scores, base).tree() if scores and base else None for scores in rounds],
    }


def denoising_tree(store: Store, plan: Plan) -> dict[str, Any]:
    """Held-out denoising loss of the base and of every round, and the change from the base, paired by picture."""
    base, *rounds = (
        [(row["prompt"], row["loss"]) for order in plan.measure_orders(model) for row in _losses(store, order.id)]
        for model in plan.policies()
    )
    prompts = [prompt for prompt, _ in base]
    changes = [[loss - before for (_, loss), (_, before) in zip(losses, base, strict=True)] for losses in rounds]
    return {
        "base": clustered_mean([loss for _, loss in base], prompts).tree(),
        "rounds": [clustered_mean([loss for _, loss in losses], prompts).tree() for losses in rounds],
        "paired_change_by_round": [clustered_mean(change, prompts).tree() for change in changes],
    }


def _losses(store: Store, id_: str) -> list[dict[str, Any]]:
    return store.get(LOSSES, id_).attrs["rows"]


def seen_minus_unseen(seen: Mapping[str, Any], unseen: Mapping[str, Any]) -> dict[str, Any]:
    """How much better each model is on combinations of the training split; the two sets of prompts are independent."""

    def difference(one: Cell, other: Cell) -> Cell:
        return {"mean": round(one["mean"] - other["mean"], 5), "se": round(math.hypot(one["se"], other["se"]), 5)}

    return {
        aspect: {
            "base": difference(tree["base"], unseen[aspect]["base"]),
            "rounds": [difference(*both) for both in zip(tree["rounds"], unseen[aspect]["rounds"], strict=True)],
            "gallery": {
                name: difference(cell, unseen[aspect]["gallery"][name]) for name, cell in tree["gallery"].items()
            },
        }
        for aspect, tree in seen.items()
    }


def side_effects(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[Cell | None]]]]:
    """A table from results.json: its columns, and a row of cells per model, the base first; None = not measured."""
    first = next(iter(results["aspects"].values()))
    rounds = [policy_name(i) for i in range(len(first["rounds"]))]
    columns: dict[str, dict[str, Cell]] = {}
    for name, metric in results.get("metrics", {}).items():
        columns[name] = metric["models"]
        gained = zip(rounds, metric["paired_gain_by_round"], strict=True)
        columns[f"{name}: gain"] = {model: cell for model, cell in gained if cell}
    if loss := results.get("denoising_loss"):
        columns["denoising loss"] = {BASE: loss["base"], **dict(zip(rounds, loss["rounds"], strict=True))}
        columns["change of the loss"] = dict(zip(rounds, loss["paired_change_by_round"], strict=True))
    if pixels := results.get("off_palette"):
        columns["off-palette pixels"] = pixels
    for aspect, tree in results.get("seen_minus_unseen", {}).items():
        by_model = {BASE: tree["base"], **tree["gallery"], **dict(zip(rounds, tree["rounds"], strict=True))}
        columns[f"{aspect}: seen - unseen"] = by_model
    titles = {BASE: BASE, **{name: f"gallery: {name}" for name in first["gallery"]}}
    titles |= {name: f"policy, round {i}" for i, name in enumerate(rounds, 1)}
    rows = [(title, [cells.get(name) for cells in columns.values()]) for name, title in titles.items()]
    return list(columns), [(title, cells) for title, cells in rows if any(cells)]
