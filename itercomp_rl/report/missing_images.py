"""This module counts the missing images of gallery members whose images are made elsewhere, with the reasons."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from itercomp_rl.config.schema import EXTERNAL
from itercomp_rl.items import DrawOrder, ModelRef
from itercomp_rl.plan import Plan
from itercomp_rl.store.store import Store


def missing_tree(store: Store, plan: Plan) -> dict[str, Any]:
    """The `missing_images` object of results.json: counts for each gallery member that is a folder or an endpoint.

    Example: {"closed": {"gallery": {"images": 40, "missing": 3, "reasons": {"...": 3}}, "held_out": {...}}}, common
    reasons first.
    """
    return {
        model.name: {name: _counts(store, orders) for name, orders in _orders(plan, model, round_).items()}
        for round_ in range(plan.rounds)
        for model in plan.founders(round_)
        if model.system in EXTERNAL
    }


def missing_sentences(tree: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each member and set of images (gallery or held-out) from which images are missing."""
    return list(_sentences(tree))


def _sentences(tree: Mapping[str, Any]) -> Iterator[str]:
    for name, found in tree.items():
        for what, counts in found.items():
            if counts["missing"]:
                words = what.replace("_", "-")
                yield (
                    f"{name}: {counts['missing']} of {counts['images']} {words} images are missing. The commonest "
                    f"reason: {next(iter(counts['reasons']))}"
                )


def _orders(plan: Plan, model: ModelRef, round_: int) -> dict[str, list[DrawOrder]]:
    segments = range(len(plan.segments()))
    gallery = [order for i in segments for order in plan.draw_orders(round_, i) if order.model == model]
    return {"gallery": gallery, "held_out": plan.evaluation_orders(model)}


def _counts(store: Store, orders: list[DrawOrder]) -> dict[str, Any]:
    notes = [
        note
        for order in orders
        if store.has(order.kind, order.id)
        for note in store.get(order.kind, order.id, []).attrs["notes"]
    ]
    reasons = Counter(note["missing"] for note in notes if "missing" in note)
    return {"images": len(notes), "missing": reasons.total(), "reasons": dict(reasons.most_common(5))}
