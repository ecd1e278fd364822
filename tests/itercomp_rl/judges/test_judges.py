"""Judges by score: the same interface whoever scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import CheckpointError
from itercomp_rl.items import ImageRef, Prompt
from itercomp_rl.judges.choice import open_judge, open_scorer
from itercomp_rl.judges.reward import RewardScorer
from itercomp_rl.judges.scoring import GroupJudge
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.store import open_store
from tests.parts.judge_checkpoints import make_clip, make_depth, make_detector, make_vqa
from tests.parts.rank_store import MODELS, make_rank_store
from tests.parts.spacy_pipeline import spacy_pipeline

CPU = torch.device("cpu")
STORE = open_store("memory://", create=True)


def judge_of(kind: str, config: Config) -> GroupJudge:
    return open_judge(kind, config, lambda kind: open_scorer(kind, config, CPU, STORE))


def images_of(row: int) -> tuple[Prompt, dict[str, np.ndarray]]:
    """A prompt and its images; "one" shows what it asks for."""
    store, prompts = make_rank_store()
    reader = ImageReader(store)
    return prompts[row], {m: reader.load([ImageRef(segment=f"{m}-00000", row=row)])[0] for m in MODELS}


def test_the_oracle_puts_the_image_that_shows_the_prompt_first() -> None:
    prompt, images = images_of(0)
    found = judge_of("oracle", load_config("tiny")).judge(prompt, images)
    assert set(found) == set(prompt.aspects)
    for judged in found.values():
        assert "one" in judged.ranking.places[0]
        assert judged.scores["one"] == max(judged.scores.values())


def test_fixed_reward_models_score_images_of_any_size_each_by_itself() -> None:
    prompt, images = images_of(1)
    scorer = RewardScorer({"attribute": "embedded:trunk"}, CPU)
    large = images["two"].repeat(2, axis=0).repeat(2, axis=1)
    mixed = scorer.score([prompt] * 3, [images["one"], large, images["three"]])
    alone = [scorer.score([prompt], [image])[0] for image in (images["one"], large, images["three"])]
    assert [s["attribute"].value for s in mixed] == pytest.approx([s["attribute"].value for s in alone], abs=1e-4)
    assert all(s["attribute"].passed == (s["attribute"].value > 0) for s in mixed)


def test_each_aspect_may_have_a_reward_model_of_its_own() -> None:
    config = load_config("tiny", ["judge.reward_models.spatial=embedded:none"])
    with pytest.raises(CheckpointError, match="'embedded:none' is not shipped"):
        open_scorer("reward", config, CPU, STORE)


def test_t2i_compbench_ranks_the_aspects_that_a_prompt_is_about(tmp_path: Path) -> None:
    models = {"vqa": make_vqa(tmp_path / "v"), "clip": make_clip(tmp_path / "c"), "depth": make_depth(tmp_path / "d")}
    models |= {"detector": make_detector(tmp_path / "o"), "spacy": spacy_pipeline()}
    config = load_config("tiny", [f"judge.t2i_compbench.{name}={value}" for name, value in models.items()])
    judge = judge_of("t2i_compbench", config)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for name in MODELS}
    for text, aspects in {
        "a red cat on the left of a blue dog": {"attribute", "spatial", "non_spatial"},
        "a cat in front of a dog": {"attribute", "spatial", "non_spatial"},
        "two dogs": {"attribute", "spatial", "non_spatial"},
        "a cat chases a dog": {"attribute", "non_spatial"},
    }.items():
        found = judge.judge(Prompt(id="p", text=text), images)
        assert set(found) == aspects, text
        for judged in found.values():
            assert sorted(judged.ranking.models) == sorted(MODELS)
            assert set(judged.scores) == set(MODELS)
