"""The report as a file: what it says, and that it needs nothing but itself."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.evaluation.scores import Graded, aspects_of, load_grades, preferences_add
from itercomp_rl.plan import Plan
from itercomp_rl.report.facts import Series
from itercomp_rl.report.html import aspect_plots, tiles, verdict, write_report
from itercomp_rl.report.results import write_control, write_results
from itercomp_rl.store.store import open_store
from tests.parts.report_of_a_run import OVERRIDES, HandMade


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(hand_made: HandMade, tmp_path_factory: pytest.TempPathFactory) -> Elements:
    out = write_report(
        hand_made.store, hand_made.plan, hand_made.folder, tmp_path_factory.mktemp("page") / "report.html"
    )
    return Elements(out.read_text(encoding="utf-8"))


def test_a_report_fetches_nothing_and_runs_no_script(page: Elements) -> None:
    assert not [tag for tag, _ in page.found if tag in ("script", "iframe", "object")]
    links = [attrs.get(key) for _, attrs in page.found for key in ("src", "href", "xlink:href") if key in attrs]
    assert links
    assert [link for link in links if not str(link).startswith(("data:", "#"))] == []


def test_a_finished_run_says_what_its_gain_cost(hand_made: HandMade, tmp_path: Path) -> None:
    shutil.copy(hand_made.folder / "metrics.jsonl", tmp_path)
    facts = {"wall_s": 60.0, "peak_rss_mb": 100, "phases": []}
    write_results(hand_made.store, hand_made.plan, tmp_path, facts, {"torch": "2"})
    tree = json.loads((tmp_path / "results.json").read_text())
    num = hand_made.plan.config.evaluation.denoising_images
    assert tree["denoising_loss"]["paired_change_by_round"] == [{"mean": 0.1, "se": 0.0, "n": num}]
    assert tree["off_palette"]["policy-0"]["mean"] == 0.01
    assert set(tree["seen_minus_unseen"]) == set(tree["aspects_seen"]) == set(tree["aspects"])
    orders = hand_made.plan.evaluation_orders(hand_made.plan.policy(-1))
    held_out = {prompt.text for order in orders for prompt in order.prompts}
    assert tree["held_out_prompts"] == {"prompts": len(held_out), "trained_on": 0, "example": None}
    printed = (tmp_path / "results.txt").read_text()
    assert "paired gain over the base" in printed
    assert "0.1000±0.0000" in printed
    text = Elements(write_report(hand_made.store, hand_made.plan, tmp_path).read_text(encoding="utf-8")).text
    assert "Beside the scores" in text
    assert "0.6000 ± 0.0000" in text
    assert f"{len(held_out)}, of which none were trained on" in text


def test_held_out_prompts_that_were_trained_on_are_named_above_the_scores(hand_made: HandMade, tmp_path: Path) -> None:
    facts = {"wall_s": 60.0, "peak_rss_mb": 100, "phases": []}
    write_results(hand_made.store, hand_made.plan, tmp_path, facts, {"torch": "2"})
    tree = json.loads((tmp_path / "results.json").read_text())
    tree["held_out_prompts"] = {"prompts": 8, "trained_on": 3, "example": "a red cup"}
    (tmp_path / "results.json").write_text(json.dumps(tree))
    text = Elements(write_report(hand_made.store, hand_made.plan, tmp_path).read_text(encoding="utf-8")).text
    assert "3 of 8 held-out prompts were trained on too, such as 'a red cup'" in text
    assert "8, of which 3 were trained on" in text


def test_a_run_that_is_graded_by_what_it_learns_from_says_so_first(hand_made: HandMade, tmp_path: Path) -> None:
    config = load_config("tiny", [*OVERRIDES, "evaluation.judge=reward", "evaluation.allow_self_grading=true"])
    plan = replace(hand_made.plan, config=config)
    facts = {"wall_s": 60.0, "peak_rss_mb": 100, "phases": []}
    write_results(hand_made.store, plan, tmp_path, facts, {"torch": "2"})
    tree = json.loads((tmp_path / "results.json").read_text())
    assert next(iter(tree)) == "self_grading"
    assert len(tree["self_grading"]) == 4  # one model for all aspects, and each aspect by the trunk
    begin = "evaluation.judge scores attribute and spatial and non_spatial by one and the same source"
    assert (tmp_path / "results.txt").read_text().startswith(begin)
    text = Elements(write_report(hand_made.store, plan, tmp_path).read_text(encoding="utf-8")).text
    assert text.index(begin) < text.index("learned in 1 round")
    assert begin not in Elements(write_report(hand_made.store, hand_made.plan, tmp_path).read_text("utf-8")).text


def test_ids_are_unique_and_links_within_the_page_arrive(page: Elements) -> None:
    ids = Counter(attrs["id"] for _, attrs in page.found if "id" in attrs)
    assert [id_ for id_, count in ids.items() if count > 1] == []
    targets = [str(attrs["href"])[1:] for tag, attrs in page.found if tag == "a"]
    assert [target for target in targets if target not in ids] == []


def test_every_picture_and_plot_has_words(page: Elements) -> None:
    pictures = [attrs.get("alt") for tag, attrs in page.found if tag == "img"]
    plots = [attrs.get("aria-label") for tag, attrs in page.found if tag == "svg"]
    assert len(pictures) > 8
    assert len(plots) >= 8
    assert all(pictures)
    assert all(plots)


def test_plots_use_the_colours_of_the_page_so_that_both_themes_work(page: Elements) -> None:
    styles = " ".join(str(attrs.get("style")) for _, attrs in page.found)
    assert "var(--ink)" in styles
    assert "#0000" not in styles, "a stand-in colour was left"


def test_the_report_says_the_scores_the_lineage_and_the_versions(page: Elements) -> None:
    assert "by hand" in page.text
    assert "0.250 ± 0.000" in page.text
    assert "spatial 80 % of 40" in page.text.replace("\n", " ")
    assert "embedded:base, 4 updates" in page.text
    assert "This run has not finished" in page.text  # no results.json in the folder


def test_a_run_that_has_done_nothing_has_a_report_that_says_so(tmp_path: Path) -> None:
    plan = Plan(config=load_config("tiny", ["run.name=<b>new</b>"]))
    text = write_report(open_store("memory://", create=True), plan, tmp_path).read_text(encoding="utf-8")
    for sentence in ("No model has been evaluated yet", "No reward model has been published yet", "not begun to learn"):
        assert sentence in text
    assert "<b>new</b>" not in text
    assert "&lt;b&gt;new" in text


def test_the_verdict_calls_only_gains_beyond_two_errors_gains() -> None:
    def graded(scores: list[float]) -> list[Graded]:
        return [Graded(place=i, prompt=str(i), score=score, passed=False) for i, score in enumerate(scores)]

    base = {"attribute": graded([0.1, 0.2, 0.3, 0.4]), "spatial": graded([0.1, 0.2, 0.3, 0.4])}
    last = {"attribute": graded([0.5, 0.6, 0.7, 0.9]), "spatial": graded([0.0, 0.6, 0.1, 0.6])}
    found = aspects_of({"base": base, "policy-0": last}, "base", ["policy-0"])
    # Means: attribute .25 -> .675, spatial .25 -> .325; over both .25 and .5.
    assert verdict(found) == "Round 1 scores 0.500 in the mean over aspects; the base 0.250."
    assert [(tile.aspect, tile.change, tile.word) for tile in tiles(found)] == [
        ("attribute", "0.250 → 0.675", "gain"),
        ("spatial", "0.250 → 0.325", "not sure"),
    ]
    turned = aspects_of({"base": last, "policy-0": base}, "base", ["policy-0"])
    assert [tile.word for tile in tiles(turned)] == ["loss", "not sure"]


def test_a_control_stands_beside_the_gain_in_results_tables_and_report(hand_made: HandMade, tmp_path: Path) -> None:
    """The control here is the run itself, so that learned preferences add exactly nothing."""
    facts = {"wall_s": 60.0, "peak_rss_mb": 100, "phases": []}
    folders = [tmp_path / name for name in ("run", "run-control")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(hand_made.folder / "metrics.jsonl", folder)
        write_results(hand_made.store, hand_made.plan, folder, facts, {"torch": "2"})
    plan = hand_made.plan
    grades = load_grades(hand_made.store, plan, plan.policy(plan.rounds - 1))
    write_control(folders[0], folders[1], preferences_add(grades, grades, plan.config.prompts.aspects))
    tree = json.loads((folders[0] / "results.json").read_text())
    for aspect, found in tree["aspects"].items():
        assert tree["control"]["paired_gain"][aspect] == found["paired_gain"]
        assert tree["control"]["preferences_add"][aspect]["mean"] == 0
    printed = (folders[0] / "results.txt").read_text()
    report = write_report(hand_made.store, plan, folders[0]).read_text(encoding="utf-8")
    for words in ("control: no preferences learned", "learned preferences add"):
        assert words in printed
        assert words in report
    assert "control:" not in (folders[1] / "results.txt").read_text()


def test_measured_gradients_of_aspects_are_shown_and_nothing_where_none_were() -> None:
    def series(name: str, *values: float) -> Series:
        return Series(name=name, times=[0.0] * len(values), rounds=[0] * len(values), values=values)

    names = ("norm_attribute", "norm_non_spatial", "cosine_attribute_non_spatial")
    measured = [series(f"policy/image_gradient_{name}", 0.5, -0.25) for name in names]
    norms, cosines = aspect_plots({one.name: one for one in measured})
    assert "attribute from 0.5 to -0.25; non-spatial from 0.5 to -0.25" in norms.svg
    assert "attribute-non-spatial from 0.5 to -0.25" in cosines.svg
    assert aspect_plots({"policy/grad_norm": series("policy/grad_norm", 1.0)}) == []
