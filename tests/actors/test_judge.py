"""Held-out images are graded on what their prompts are about, whoever grades."""

import gc

import numpy as np
import pytest
import torch

from actors.judge import Judge
from itercomp_rl.config.load import load_config
from itercomp_rl.items import Prompt
from itercomp_rl.reward.conv import ConvReward
from itercomp_rl.reward.model import RewardModel
from itercomp_rl.store.store import open_store

PROMPTS = [
    Prompt(id="a", text="a red circle and a blue square", aspects=("attribute",)),
    Prompt(id="b", text="a red circle left of a blue square", aspects=("attribute", "spatial")),
    Prompt(id="c", text="a red circle left of a blue square", aspects=("spatial", "non_spatial")),
]


@pytest.mark.parametrize("kind", ["oracle", "reward"])
def test_grades_are_of_the_prompts_aspects_that_the_run_has(kind: str) -> None:
    aspects = ["prompts.aspects=[attribute,spatial]", "evaluation.allow_self_grading=true"]
    config = load_config("tiny", [f"evaluation.judge={kind}", *aspects])
    store = open_store("memory://", create=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    prompts = [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in PROMPTS]
    store.put("evaluations", "e", {"images": images}, {"model": "base", "prompts": prompts})
    Judge(store, config, torch.device("cpu")).grade("e")
    rows = store.get("grades", "e").attrs["rows"]
    assert [sorted(row["grades"]) for row in rows] == [["attribute"], ["attribute", "spatial"], ["spatial"]]


def test_a_judge_frees_its_models_and_grades_the_same_once_they_are_loaded_again() -> None:
    def models() -> int:
        gc.collect()
        return sum(type(found) in (RewardModel, ConvReward) for found in gc.get_objects())

    aspects = ["prompts.aspects=[attribute]", "evaluation.allow_self_grading=true"]
    config = load_config("tiny", ["evaluation.judge=reward", *aspects])
    store = open_store("memory://", create=True)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    prompts = [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in PROMPTS[:1]]
    for id_ in ("e", "f"):
        store.put("evaluations", id_, {"images": images}, {"model": "base", "prompts": prompts})
    before, judge = models(), Judge(store, config, torch.device("cpu"))
    judge.grade("e")
    assert models() > before
    judge.unload()
    assert models() == before
    judge.grade("f")
    assert store.get("grades", "e").attrs["rows"] == store.get("grades", "f").attrs["rows"]
