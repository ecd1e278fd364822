"""What a run leaves for people: results.json, a table, a picture of the same prompts before and after each round."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from itercomp_rl.config.load import to_tree
from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.evaluation.side_effects import side_effects_tree
from itercomp_rl.files.whole import write_whole
from itercomp_rl.plan import Plan
from itercomp_rl.report.images import write_grid
from itercomp_rl.report.plans import plan_sentences, plans_tree
from itercomp_rl.report.tables import score_table, side_effects_table
from itercomp_rl.store.store import Store


def write_results(store: Store, plan: Plan, folder: Path, facts: dict[str, Any], versions: dict[str, str]) -> None:
    """results.json, results.txt (the tables) and images.png in the run folder; `facts`: what the run cost."""
    tree: dict[str, Any] = {"aspects": aspects_tree(store, plan)}
    tree |= side_effects_tree(store, plan, tree["aspects"])
    if plans := plans_tree(store, plan):
        tree["plans"] = plans
    tree |= {
        **{name: facts[name] for name in ("wall_s", "peak_rss_mb", "phases")},
        "config": to_tree(plan.config),
        "versions": versions,
        "seeds": {"run": plan.config.run.seed, "evaluation": plan.config.evaluation.seed},
    }
    write_whole(folder / "results.json", json.dumps(tree, indent=2) + "\n")
    with (folder / "results.txt").open("w", encoding="utf-8") as file:
        console = Console(width=120, file=file)
        console.print(score_table(tree["aspects"], plan.config.evaluation.judge))
        if table := side_effects_table(tree):
            console.print(table)
        for sentence in plan_sentences(plans):
            console.print(sentence, markup=False)
    write_grid(store, plan, folder / "images.png")
