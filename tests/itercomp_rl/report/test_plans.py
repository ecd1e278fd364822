"""Images that the rules planned in a language model's place are counted in the results."""

import json
from pathlib import Path

import numpy as np

from itercomp_rl.config.load import load_config
from itercomp_rl.plan import Plan
from itercomp_rl.report.html import write_report
from itercomp_rl.report.plans import plan_sentences, plans_tree
from itercomp_rl.report.results import write_results
from itercomp_rl.store.store import open_store
from tests.parts.report_of_a_run import HandMade

PLANNED = "model: 'embedded:base', num_steps: 2, guidance: 7.5, system: rpg"
OVERRIDES = [
    "gallery.planners.chat={kind: openai, model: m, url: 'http://localhost:8000/v1'}",
    f"gallery.members.far={{{PLANNED}, planner: chat}}",
    f"gallery.members.late={{{PLANNED}, planner: chat, join_round: 1}}",
    f"gallery.members.near={{{PLANNED}, planner: rule}}",
]


def test_images_planned_by_rule_in_a_models_place_are_counted_by_reason() -> None:
    plan = Plan(config=load_config("tiny", ["run.rounds=2", *OVERRIDES]))
    store = open_store("memory://", create=True)
    reasons = [None, "refused", "no ratio", "refused"]
    found = 0
    for segment in range(len(plan.segments())):
        for order in plan.draw_orders(0, segment):
            notes = [
                {"planner": order.model.planner, "fallback": reasons[row % 4]} for row in range(len(order.prompts))
            ]
            notes[0] = {}  # a skipped prompt
            found += (order.model.name == "far") * (len(notes) - 1)
            store.put(order.kind, order.id, {"images": np.zeros((len(notes), 1, 1, 3), np.uint8)}, {"notes": notes})
    tree = plans_tree(store, plan)
    assert set(tree) == {"far", "late"}  # planner `rule` plans by rule anyway
    assert tree["far"]["images"] == found
    assert tree["far"]["by_rule"] == sum(tree["far"]["reasons"].values())
    assert list(tree["far"]["reasons"]) == ["refused", "no ratio"]
    assert tree["late"] == {"planner": "chat", "images": 0, "by_rule": 0, "reasons": {}}
    [sentence] = plan_sentences(tree)
    assert sentence.startswith(
        f"far: {tree['far']['by_rule']} of {found} images were planned by rule, as planner 'chat'"
    )
    assert sentence.endswith("refused")


def test_results_of_a_run_without_such_members_do_not_speak_of_plans(hand_made: HandMade, tmp_path: Path) -> None:
    facts = {"wall_s": 60.0, "peak_rss_mb": 100, "phases": []}
    write_results(hand_made.store, hand_made.plan, tmp_path, facts, {})
    assert "plans" not in json.loads((tmp_path / "results.json").read_text())


def test_the_report_names_members_that_the_rules_planned_for(tmp_path: Path) -> None:
    plan = Plan(config=load_config("tiny", ["run.rounds=1", *OVERRIDES[:2]]))
    store = open_store("memory://", create=True)
    for order in plan.draw_orders(0, 0):
        notes = [{"planner": order.model.planner, "fallback": "the endpoint is down [503]"}] * len(order.prompts)
        store.put(order.kind, order.id, {"images": np.zeros((len(notes), 32, 32, 3), np.uint8)}, {"notes": notes})
    num = len(plan.draw_orders(0, 0)[0].prompts)
    text = write_report(store, plan, tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"far: {num} of {num} images were planned by rule" in text
    assert "the endpoint is down [503]" in text
