"""Runs on prompts and ranks from files: a first run's images are ranked, a second run learns from the rank files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cluster.run_folder import load_run
from itercomp_rl.ranking.records import load_rankings
from tests.parts.real_runs import itercomp

pytestmark = pytest.mark.slow

SMALL = ("prompts.gallery=40", "prompts.policy=40", "run.rounds=1")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rank files of a first run, beside that run."""
    folder = tmp_path_factory.mktemp("runs")
    itercomp("run", "tiny", f"run.dir={folder}", *SMALL)
    itercomp("rank", str(folder / "tiny"), "--export", str(folder / "ranks"), "--origin", "judge")
    (folder / "test.txt").write_text("a red circle left of a blue square\na man with a hat\n")
    return folder / "ranks"


def run_on_files(ranks: Path, name: str, *overrides: str) -> Path:
    itercomp(
        *("run", "tiny", f"run.dir={ranks.parent}", f"run.name={name}", *SMALL),
        *("prompts.source=files", f"prompts.train_file={ranks / 'prompts.txt'}"),
        *(
            f"prompts.test_file={ranks.parent / 'test.txt'}",
            "evaluation.judge=reward",
            "evaluation.allow_self_grading=true",
            *overrides,
        ),
    )
    return ranks.parent / name


def test_a_run_learns_from_the_rank_files_of_the_images_it_draws_again(ranks: Path) -> None:
    folder = run_on_files(ranks, "files", f"judge.first_round={ranks / 'all.csv'}")
    (_, first), (_, second) = load_run(ranks.parent / "tiny"), load_run(folder)

    def drawn(store) -> dict[str, np.ndarray]:
        record = {id_: store.get("images", id_) for id_ in store.ids("images", "spatial-")}
        return {
            prompt["id"]: image
            for part in record.values()
            for prompt, image in zip(part.attrs["prompts"], part.arrays["images"], strict=True)
        }

    before, after = drawn(first), drawn(second)
    # Same run seed, models and prompts: the people's images again, to the rounding of other batches.
    assert before.keys() == after.keys()
    assert max(int(np.abs(before[id_].astype(int) - after[id_]).max()) for id_ in before) <= 1

    with (ranks / "all.csv").open(newline="") as file:
        said = {(row["prompt"], row["aspect"], row["model"]): int(row["place"]) for row in csv.DictReader(file)}
    found = {
        (prompt.text, aspect, model): place
        for id_ in second.ids("rankings")
        for prompt, _, rankings in load_rankings(second, id_)
        for aspect, judged in rankings.items()
        for place, models in enumerate(judged.ranking.places, start=1)
        for model in models
    }
    assert found == said


def test_fixed_reward_models_can_rank_the_first_round_and_grade(ranks: Path) -> None:
    folder = run_on_files(ranks, "by-reward", "judge.first_round=reward", "judge.margin=0")
    tree = json.loads((folder / "results.json").read_text())
    assert "off_palette" not in tree
    assert all(aspect["base"]["n"] >= 2 for aspect in tree["aspects"].values())
    assert "reward score" in itercomp("evaluate", str(folder), "--n", "2")


def test_ranks_of_other_prompts_stop_the_run_before_it_starts(ranks: Path) -> None:
    (ranks.parent / "foreign.csv").write_text("prompt,model,place\na horse,base,1\na horse,spatial,2\n")
    said = itercomp(
        *("run", "tiny", f"run.dir={ranks.parent}", "run.name=foreign", *SMALL, "prompts.aspects=[attribute]"),
        f"judge.first_round={ranks.parent / 'foreign.csv'}",
        code=2,
    )
    assert "ranks none of the 40 gallery prompts" in said
    assert not (ranks.parent / "foreign").exists()
