"""How many images of a run were drawn by a plan of the rules because a language model gave none."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from itercomp_rl.plan import Plan
from itercomp_rl.store.store import Store


def plans_tree(store: Store, plan: Plan) -> dict[str, Any]:
    """The `plans` object of results.json: a count for each gallery member that a language model plans for.

    Example: {"rpg": {"planner": "chat", "images": 40, "by_rule": 3, "reasons": {"...": 3}}}, common reasons first.
    """
    tree = {}
    for round_ in range(plan.rounds):
        for model in plan.founders(round_):
            if model.planner is None or plan.config.gallery.planners[model.planner].kind == "rule":
                continue
            segments = [plan.draw_orders(round_, segment) for segment in range(len(plan.segments()))]
            orders = [order for segment in segments for order in segment if order.model == model]
            orders += plan.evaluation_orders(model)
            notes = [
                note
                for order in orders
                if store.has(order.kind, order.id)
                for note in store.get(order.kind, order.id, []).attrs.get("notes", ())
                if note
            ]
            reasons = Counter(note["fallback"] for note in notes if note["fallback"] is not None)
            tree[model.name] = {
                "planner": model.planner,
                "images": len(notes),
                "by_rule": reasons.total(),
                "reasons": dict(reasons.most_common(5)),
            }
    return tree


def plan_sentences(tree: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores must know: which members were not drawn as their planner says."""
    return [
        f"{name}: {found['by_rule']} of {found['images']} images were planned by rule, as planner {found['planner']!r} "
        f"gave no plan for them. The commonest reason: {next(iter(found['reasons']))}"
        for name, found in tree.items()
        if found["by_rule"]
    ]
