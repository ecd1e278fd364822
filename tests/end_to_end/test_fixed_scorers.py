"""A run in which fixed scorers do all that they can: rank, start the reward models, are climbed, and grade."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.evaluation.side_effects import side_effects, side_effects_tree
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.reward.checkpoint import export_reward, load_reward
from itercomp_rl.reward.published import load_reward_version
from itercomp_rl.store import weights
from itercomp_rl.store.store import open_store
from tests.parts.json_server import Reply, json_server
from tests.parts.judge_checkpoints import make_aesthetic_head, make_clip, make_hpsv2
from tests.parts.one_process import OneProcessRun, small_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def redness(body: dict[str, Any]) -> Reply:
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in body["images"]]
    return 200, {"scores": [float(image[..., 0].mean() - image[..., 2].mean()) / 255 for image in images]}


def test_published_scorers_classes_and_addresses_make_a_whole_run(tmp_path: Path) -> None:
    trunk, grader = make_clip(tmp_path / "trunk"), make_clip(tmp_path / "grader", seed=1)
    head = make_aesthetic_head(make_clip(tmp_path / "aesthetic", seed=2) / "head.pth", 16)
    hps, look = make_hpsv2(make_clip(tmp_path / "hps", seed=3)), make_clip(tmp_path / "look", seed=4)
    with json_server(redness) as (url, _):
        config = small_config(
            tmp_path,
            *("judge.first_round=reward", f"judge.reward_models.attribute={url}"),
            "judge.reward_models.spatial=python:tests.parts.custom_scorers:Brightness",
            *(f"reward.trunk=pickscore:{trunk}", "reward.hardening.weight=0.1", "evaluation.judge=reward"),
            *(
                f"evaluation.reward_models.attribute=hpsv2:{hps}",
                f"evaluation.reward_models.spatial=clipscore:{grader}",
            ),
            *(
                f"evaluation.metrics.look=pickscore:{look}",
                "evaluation.metrics.words=python:tests.parts.custom_scorers:WordCount",
            ),
            *(f"policy.frozen_rewards.taste.source=aesthetic:{head}", "policy.frozen_rewards.taste.weight=0.5"),
        )
        store = open_store(config.store_url, create=True, durable=False)
        OneProcessRun(config, store).go()
    plan = Plan(config=config)
    for prompt, _, rankings in load_rankings(store, plan.rankings(0)[0]):
        assert set(rankings) == set(prompt.aspects) & {"attribute", "spatial"}
        for judged in rankings.values():
            best = judged.ranking.places[0][0]
            assert judged.scores[best] == max(judged.scores.values())
    found = aspects_tree(store, plan)
    for aspect, tree in found.items():
        assert len(tree["rounds"]) == 2, aspect
        assert tree["pass_rate"] == {}, "these scorers have no mark to pass"
    measured = side_effects_tree(store, plan, found)["metrics"]
    assert set(measured["look"]["models"]) == {model.name for model in plan.evaluated()}
    assert measured["look"]["paired_gain_by_round"][1]["mean"] != 0
    assert {gain["mean"] for gain in measured["words"]["paired_gain_by_round"]} == {0}, "prompts are the same for all"
    columns, rows = side_effects({"aspects": found, "metrics": measured})
    assert columns == ["look", "look: gain", "words", "words: gain"]
    assert all(cells[0] is not None for _, cells in rows)
    for round_ in range(2):
        frozen = weights.open_version(store, "policy", round_).attrs["frozen_rewards"]["taste"]
        assert frozen["weight"] == 0.5
        assert frozen["std"] > 0
    learned = load_reward_version(f"pickscore:{trunk}", weights.open_version(store, "reward-attribute", 1))
    export_reward(learned, tmp_path / "exported")
    again = load_reward(tmp_path / "exported").state_dict()
    assert all(np.array_equal(tensor, again[name]) for name, tensor in learned.state_dict().items())
    start = load_reward_version(f"pickscore:{trunk}", weights.open_version(store, "reward-attribute", 0)).state_dict()
    moved = [name for name, tensor in learned.state_dict().items() if not np.array_equal(tensor, start[name])]
    assert "clip.visual_projection.weight" in moved
