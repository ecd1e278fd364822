"""results.json and results.txt: what a run reached, what it cost, and what its control reached."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from itercomp_rl.config.judging_sources import self_grading
from itercomp_rl.config.load import to_tree
from itercomp_rl.evaluation.overlap import overlap_of, overlap_sentence
from itercomp_rl.evaluation.probes import probes_tree
from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.evaluation.side_effects import side_effects_tree
from itercomp_rl.files.whole import replacing, write_whole
from itercomp_rl.judges.vlm.answers import answers_sentence, answers_tree
from itercomp_rl.plan import Plan
from itercomp_rl.report.images import write_grid
from itercomp_rl.report.missing_images import missing_sentences, missing_tree
from itercomp_rl.report.plans import plan_sentences, plans_tree
from itercomp_rl.report.tables import score_table, side_effects_table
from itercomp_rl.store.store import Store


def write_results(store: Store, plan: Plan, folder: Path, facts: dict[str, Any], versions: dict[str, str]) -> None:
    """results.json, results.txt (the tables) and images.png in the run folder; `facts`: what the run cost."""
    graded = self_grading(plan.config)
    tree: dict[str, Any] = ({"self_grading": graded} if graded else {}) | {"aspects": aspects_tree(store, plan)}
    tree |= side_effects_tree(store, plan, tree["aspects"])
    if plans := plans_tree(store, plan):
        tree["plans"] = plans
    if missing := missing_tree(store, plan):
        tree["missing_images"] = missing
    if answers := answers_tree(store):
        tree["vlm_answers"] = answers
    if probes := probes_tree(store, plan):
        tree["probes"] = probes
    tree |= {
        "held_out_prompts": overlap_of(plan).tree(),
        **{name: facts[name] for name in ("wall_s", "peak_rss_mb", "phases")},
        "config": to_tree(plan.config),
        "versions": versions,
        "seeds": {"run": plan.config.run.seed, "evaluation": plan.config.evaluation.seed},
    }
    _write_tree(folder, tree)
    write_grid(store, plan, folder / "images.png")


def write_control(folder: Path, control_folder: Path, added: dict[str, Any]) -> None:
    """Put what the control run reached beside a run's own results, in results.json and results.txt.

    Args: added: per aspect, what the run's last policy scores above the control's, paired.
    """
    tree, control = (json.loads((one / "results.json").read_text(encoding="utf-8")) for one in (folder, control_folder))
    gains = {aspect: found["paired_gain"] for aspect, found in control["aspects"].items()}
    rounds = {aspect: found["rounds"] for aspect, found in control["aspects"].items()}
    tree["control"] = {
        "run": control["config"]["run"]["name"],
        "rounds": rounds,
        "paired_gain": gains,
        "preferences_add": added,
    }
    _write_tree(folder, tree)


def _write_tree(folder: Path, tree: dict[str, Any]) -> None:
    write_whole(folder / "results.json", json.dumps(tree, indent=2) + "\n")
    with replacing(folder / "results.txt") as new, new.open("w", encoding="utf-8") as file:
        console = Console(width=120, file=file)
        for sentence in tree.get("self_grading", ()):
            console.print(sentence, highlight=False, markup=False)
        console.print(score_table(tree["aspects"], tree["config"]["evaluation"]["judge"], tree.get("control")))
        if sentence := overlap_sentence(tree["held_out_prompts"]):
            console.print(sentence, highlight=False, markup=False)
        if table := side_effects_table(tree):
            console.print(table)
        for sentence in plan_sentences(tree.get("plans", {})) + missing_sentences(tree.get("missing_images", {})):
            console.print(sentence, markup=False)
        if answers := tree.get("vlm_answers"):
            console.print(answers_sentence(answers), markup=False)
