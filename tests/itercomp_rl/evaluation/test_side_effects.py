"""What a gain cost: paired changes of the denoising loss, seen against unseen, and the table of both."""

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import BASE
from itercomp_rl.evaluation.side_effects import denoising_tree, seen_minus_unseen, side_effects
from itercomp_rl.plan import Plan
from itercomp_rl.report.tables import side_effects_table
from itercomp_rl.store.store import open_store


def cell(mean: float, se: float = 0.1) -> dict[str, float]:
    return {"mean": mean, "se": se, "n": 4}


def aspect(base: float, last: float) -> dict:
    return {"base": cell(base), "rounds": [cell(last)], "gallery": {"base": cell(base)}}


def test_the_change_of_the_loss_is_paired_by_picture() -> None:
    plan = Plan(config=load_config("tiny", ["run.rounds=1", "evaluation.denoising_images=4"]))
    store = open_store("memory://", create=True)
    for model, rise in ((plan.policy(-1), 0.0), (plan.policy(0), 0.1)):
        (order,) = plan.measure_orders(model)
        rows = [{"prompt": p.id, "loss": 0.2 * i + rise} for i, p in enumerate(order.prompts)]
        store.put("losses", order.id, {}, {"rows": rows})
    found = denoising_tree(store, plan)
    assert found["base"]["mean"] == pytest.approx(0.3)
    assert found["rounds"][0]["mean"] == pytest.approx(0.4)
    assert found["base"]["se"] > 0.1  # the pictures differ, their changes do not
    assert found["paired_change_by_round"] == [{"mean": 0.1, "se": 0.0, "n": 4}]


def test_seen_minus_unseen_adds_the_errors_of_independent_prompts() -> None:
    found = seen_minus_unseen({"spatial": aspect(0.6, 0.9)}, {"spatial": aspect(0.5, 0.7)})
    assert found["spatial"]["base"] == {"mean": 0.1, "se": 0.14142}
    assert found["spatial"]["rounds"] == [{"mean": 0.2, "se": 0.14142}]
    assert set(found["spatial"]["gallery"]) == {"base"}


def test_the_table_has_a_row_per_model_and_a_column_per_measure_that_was_made() -> None:
    results = {"aspects": {"spatial": aspect(0.5, 0.7)}}
    assert side_effects(results)[0] == []
    assert side_effects_table(results) is None
    results["denoising_loss"] = {"base": cell(0.3), "rounds": [cell(0.4)], "paired_change_by_round": [cell(0.1)]}
    results["off_palette"] = {BASE: cell(0.01), "base": cell(0.01), "policy-0": cell(0.02)}
    columns, rows = side_effects(results)
    assert columns == ["denoising loss", "change of the loss", "off-palette pixels"]
    assert [name for name, _ in rows] == [BASE, "gallery: base", "policy, round 1"]
    assert rows[-1][1] == [cell(0.4), cell(0.1), cell(0.02)]
    assert rows[0][1] == [cell(0.3), None, cell(0.01)]
    table = side_effects_table(results)
    assert table is not None
    assert table.row_count == 3
