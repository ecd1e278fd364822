"""Every benchmark runs to its end, as small as it can be made: what nobody runs rots. Its figures are not looked at."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from random_models import word_tokenizer

from cluster.run_folder import prepare_folder
from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.plan import Plan
from itercomp_rl.reward.checkpoint import save_reward
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.store.store import open_store
from tests.parts.checkpoints import make_sdxl
from tests.parts.one_process import OneProcessRun, small_config
from tests.parts.spacy_pipeline import spacy_pipeline

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = {
    "rewards": ("--repeats", "1", "--batch", "1"),
    "store": ("--repeats", "1", "--weights-mib", "4", "--largest", "1000"),
    "refl": ("--updates", "1", "--side", "8"),
    "real_data": ("--scale", "0.004", "--sides", "32", "64", "--memory-mib", "1", "--updates", "40"),
    "gallery": ("--images", "8", "--repeats", "1", "--steps", "2"),
}

pytestmark = pytest.mark.timeout(900)


def measured(name: str, file: Path, *options: str) -> dict[str, float]:
    """What a benchmark wrote, by name; all of it is numbers."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--json", str(file), *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads(file.read_text())
    assert tree["machine"]
    assert tree["versions"]
    found = {row["name"]: row["value"] for row in tree["measures"]}
    assert found
    assert all(math.isfinite(value) for value in found.values())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path) -> None:
    measured(name, tmp_path / "measures.json", *SMALL[name])


@pytest.mark.exhaustive
def test_with_autoscale_idle_processes_draw_and_roll(tmp_path: Path) -> None:
    found = measured("loop", tmp_path / "measures.json", "--most", "4", "--speed", "5")
    for what in ("images", "updates"):
        assert found[f"autoscale, 4 samplers and 4 rollers: {what} faster (ideal: 2)"] > 1.3


@pytest.mark.slow
def test_the_rule_planner_is_counted(tmp_path: Path) -> None:
    found = measured("rule_planner", tmp_path / "measures.json", "--spacy", spacy_pipeline())
    assert len(found) == 8


@pytest.mark.exhaustive
def test_rollouts_that_are_no_update_old_learn_what_the_run_learned(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    prepare_folder(config, resume=False)
    store = open_store(config.store_url, create=True, durable=False)
    OneProcessRun(config, store).go()
    options = (str(config.run_folder), "--dir", str(tmp_path / "stale"), "--lags", "0", "2", "--points", "1")
    found = measured("staleness", tmp_path / "measures.json", *options)
    assert len(found) == 2 * (len(config.prompts.aspects) + 1)  # of each lag: every aspect, and their mean
    for aspect, tree in aspects_tree(store, Plan(config=config)).items():
        own = tree["paired_gain_by_round"][0]["mean"]
        assert found[f"1 points per rollout, 0 updates old/run/{aspect} gain"] == pytest.approx(own, abs=1e-3)


@pytest.mark.exhaustive
def test_real_size_takes_checkpoints_of_any_size(tmp_path: Path) -> None:
    make_sdxl(tmp_path / "sdxl")
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RewardConfig(
        image_size=8,
        vision={**tower, "patch_size": 4},
        text={**tower, "vocab_size": 8, "max_position_embeddings": 40},
        mlp_widths=(8, 8, 8, 4),
        mlp_init="unit_gain",
    )
    save_reward(RewardModel(config, word_tokenizer(35)).eval(), tmp_path / "reward")
    variants = ("--variant", "lora", "--variant", "all weights, zero 1")
    options = ("--folder", str(tmp_path), "--updates", "1", *variants, "policy.size_px=16")
    found = measured("real_size", tmp_path / "measures.json", *options)
    assert set(found) == {
        "real size/lora",
        "real size/all weights, zero 1",
        "real size/all weights, zero 1 over lora, per point",
    }
