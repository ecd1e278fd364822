"""A whole run for real: Ray processes, DeepSpeed ranks, diffusers and BLIP models, the store. Two rounds, a minute."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cluster.run_folder import load_run
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.forecast.stage_times import measured_times
from itercomp_rl.plan import Plan
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.store import weights
from itercomp_rl.store.retention import verify
from tests.parts.real_runs import itercomp

pytestmark = pytest.mark.timeout(900)  # the run takes a minute on two idle cores


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    itercomp("run", "tiny", f"run.dir={folder}")
    return folder / "tiny"


def test_results_json_has_the_agreed_form(run_folder: Path) -> None:
    tree = json.loads((run_folder / "results.json").read_text())
    assert set(tree["aspects"]) == {"attribute", "spatial", "non_spatial"}
    for aspect in tree["aspects"].values():
        assert set(aspect["base"]) == {"mean", "se", "n"}
        assert len(aspect["rounds"]) == 2
        assert set(aspect["gallery"]) == {"base", "attribute", "spatial"}
        assert {"mean", "se"} <= set(aspect["paired_gain"])
        assert aspect["base"]["n"] >= 12
    assert tree["wall_s"] > 0
    assert tree["peak_rss_mb"] > 100
    assert {"config", "versions", "seeds"} <= set(tree)


def test_what_the_gain_cost_stands_beside_it(run_folder: Path) -> None:
    tree = json.loads((run_folder / "results.json").read_text())
    loss = tree["denoising_loss"]
    assert loss["base"]["n"] == 12
    assert 0 < loss["base"]["mean"] < 1
    assert [cell["n"] for cell in loss["rounds"] + loss["paired_change_by_round"]] == [12] * 4
    assert {"base policy", "policy-0", "policy-1"} <= set(tree["off_palette"])
    assert all(found["base"]["n"] >= 8 for found in tree["aspects_seen"].values())
    assert set(tree["seen_minus_unseen"]) == set(tree["aspects"])
    assert "denoising loss" in (run_folder / "results.txt").read_text().replace("\n", " ")
    assert "Beside the scores" in (run_folder / "report.html").read_text()


def test_the_store_holds_each_image_group_once_and_is_sound(run_folder: Path) -> None:
    config, store = load_run(run_folder)
    plan = Plan(config=config)
    models = ["base", "attribute", "spatial", "policy-0"]
    segments = range(len(plan.segments()))
    assert store.ids("images") == sorted(f"{model}-{i:05d}" for model in models for i in segments)
    assert store.ids("rankings") == sorted(plan.rankings(0) + plan.rankings(1))
    assert weights.versions(store, "policy") == [0, 1]
    for aspect in config.prompts.aspects:
        assert weights.versions(store, f"reward-{aspect}") == [0, 1]
    assert [problem for problem in verify(store) if problem.kind == "corrupt"] == []


def test_the_policy_has_learned_something_and_not_diverged(run_folder: Path) -> None:
    _, store = load_run(run_folder)
    first, second = (weights.open_version(store, "policy", version).load() for version in (0, 1))
    assert any(bool((first[name] != second[name]).any()) for name in first)
    assert all(bool(tensor.isfinite().all()) for tensor in second.values())


def test_pictures_and_metrics_are_written(run_folder: Path) -> None:
    with Image.open(run_folder / "images.png") as picture:
        assert picture.size[0] > 300
    names = {json.loads(line)["name"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()}
    assert {"policy/refl_loss", "policy/lag_updates", "reward/attribute_held_out_accuracy"} <= names
    assert any((run_folder / "tensorboard").iterdir())
    assert "paired gain" in (run_folder / "results.txt").read_text()


def test_the_same_run_is_not_overwritten(run_folder: Path) -> None:
    assert "--resume" in itercomp("run", "tiny", f"run.dir={run_folder.parent}", code=2)


def test_evaluate_measures_anew_and_generate_draws(run_folder: Path, tmp_path: Path) -> None:
    found = itercomp("evaluate", str(run_folder), "--split", "test", "--seed", "5", "--n", "8", "--json")
    tree = json.loads(found[found.index("{") : found.rindex("}") + 1])
    assert set(tree["aspects"]) == {"attribute", "spatial", "non_spatial"}
    assert len(tree["aspects"]["spatial"]["rounds"]) == 2
    (tmp_path / "mine.txt").write_text("a red circle left of a blue square\n")
    found = itercomp("evaluate", str(run_folder), "--prompts", str(tmp_path / "mine.txt"), "--n", "2", "--json")
    tree = json.loads(found[found.index("{") : found.rindex("}") + 1], parse_constant=lambda name: 1 / 0)
    assert set(tree["aspects"]) == {"attribute", "spatial"}
    assert tree["aspects"]["spatial"]["base"]["n"] == 2
    assert tree["aspects"]["spatial"]["base"]["se"] is None  # two images of one prompt
    picture = tmp_path / "out.png"
    itercomp(
        *("generate", "a red circle left of a blue square", "--run", str(run_folder)),
        *("--compare", "base", "--num", "2", "--out", str(picture)),
    )
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 300


def test_the_last_policy_is_traced_and_status_and_logs_were_written(run_folder: Path) -> None:
    text = itercomp("store", "trace", str(run_folder))
    assert "policy 1:" in text and "images of policy-0" in text
    state = json.loads(itercomp("status", str(run_folder), "--json"))
    assert state["is_finished"]
    assert all(row["is_published"] and row["graded"] == row["total_graded"] for row in state["rounds"])
    status = json.loads((run_folder / "status.json").read_text())
    assert {"sampler", "judge", "roller", "reward_learner", "policy_learner"} == set(status["roles"])
    assert 0 <= min(status["utilisation"].values()) <= max(status["utilisation"].values()) <= 1
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {"tiny"}
    assert {0, 1} <= {line.get("round") for line in lines}
    itercomp("store", "verify", str(run_folder))


def test_the_time_of_every_stage_was_measured(run_folder: Path) -> None:
    config, _ = load_run(run_folder)
    times = measured_times(run_folder, Plan(config=config))
    for seconds in (
        times.roll_s,
        times.rank_image_s,
        times.grade_image_s,
        times.reward_update_s,
        times.learn_rollout_s,
    ):
        assert seconds > 0
    assert {"base", "attribute", "spatial", "policy"} <= set(times.draw_image_s)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_control_learns_no_preference_and_takes_over_what_the_run_drew(run_folder: Path) -> None:
    itercomp("run", "tiny", f"run.dir={run_folder.parent}", "--resume", "--control")
    folder = run_folder.with_name("tiny-control")
    config, store = load_run(folder)
    assert config.reward.updates == 0
    _, own = load_run(run_folder)
    assert store.get("images", "base-00000").arrays["images"].tobytes() == (
        own.get("images", "base-00000").arrays["images"].tobytes()
    )
    trunk = load_reward(Path(checkpoint_path(config.reward.trunk))).float().state_dict()
    for version in (0, 1):
        found = weights.open_version(store, "reward-attribute", version).load()
        assert all(torch.equal(found[name], tensor) for name, tensor in trunk.items() if "reward_" not in name)
    tree = json.loads((run_folder / "results.json").read_text())
    assert set(tree["control"]["preferences_add"]) == set(tree["aspects"])
    assert "learned preferences add" in (run_folder / "results.txt").read_text()
