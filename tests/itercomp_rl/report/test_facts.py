"""What the report reads from a run folder and a store."""

from pathlib import Path

from itercomp_rl.report.facts import lineage, load_metrics, phases_of
from itercomp_rl.report.plots import POINTS, _thinned, curves
from tests.parts.report_of_a_run import HandMade


def test_a_line_cut_short_by_a_kill_is_left_out(hand_made: HandMade) -> None:
    metrics = load_metrics(hand_made.folder)
    assert len(metrics["policy/refl_loss"].values) == 200
    assert metrics["policy/refl_loss"].values[-1] == 5 - 199 / 100


def test_a_folder_without_metrics_has_none(tmp_path: Path) -> None:
    assert load_metrics(tmp_path) == {}


def test_phases_start_where_their_end_and_length_say(hand_made: HandMade) -> None:
    # They end at 1100, 1150, 1200 and last 50 s each: one after the other from 0.
    found = phases_of(load_metrics(hand_made.folder))
    assert [(phase.name, phase.start_s) for phase in found] == [("gallery", 0), ("rewards", 50), ("policy", 100)]


def test_lineage_names_what_joined_and_what_was_made(hand_made: HandMade) -> None:
    (found,) = lineage(hand_made.store, hand_made.plan)
    assert found.joined == ["base", "attribute", "spatial"]
    assert found.num_prompts == 12
    assert {report["aspect"] for report in found.rewards} == {"attribute", "spatial", "non_spatial"}
    assert found.policy is not None
    assert found.policy["started"] == "embedded:base"


def test_thinning_keeps_short_curves_and_the_mean_of_long_ones() -> None:
    steps, values = _thinned([1.0, 5.0, 2.0])
    assert (list(steps), list(values)) == ([0, 1, 2], [1, 5, 2])
    steps, values = _thinned([float(i) for i in range(10 * POINTS)])
    assert len(values) == POINTS
    assert values.mean() == (10 * POINTS - 1) / 2
    assert (steps == values).all()  # a straight line stays on itself


def test_a_plot_is_the_same_bytes_each_time_and_shares_no_id_with_another(hand_made: HandMade) -> None:
    loss = {"loss": load_metrics(hand_made.folder)["policy/refl_loss"]}
    first, again = (curves("one", loss, y="loss", caption="") for _ in range(2))
    other = curves("two", loss, y="loss", caption="")
    assert first.svg == again.svg
    assert first.svg.replace("one-", "two-") == other.svg
