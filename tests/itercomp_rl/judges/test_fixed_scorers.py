"""Published scorers, classes of a user's own and scorers over HTTP as judges, behind one setting."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError, JudgeError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.choice import open_judge, open_scorer
from itercomp_rl.judges.remote import MAX_RETRIES, REMOTE_BATCH, RemoteScorer, check_answers
from itercomp_rl.judges.reward import RewardScorer
from itercomp_rl.reward.published import load_any_reward
from itercomp_rl.store.store import open_store
from tests.parts.json_server import Reply, json_server
from tests.parts.judge_checkpoints import make_clip

CPU = torch.device("cpu")
BRIGHT = "python:tests.parts.custom_scorers:Brightness"
JUDGE = "judge.reward_models.attribute"
STORE = open_store("memory://", create=True)


def pictures(num: int = 3, side: int = 32) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(num)
    return [rng.integers(0, 60 * (i + 1), (side, side, 3), dtype=np.uint8) for i in range(num)]


def prompts(num: int = 3, aspects: tuple[str, ...] = ("attribute",)) -> list[Prompt]:
    return [Prompt(id=f"p{i}", text="a red cat" if i % 2 else "the blue dog", aspects=aspects) for i in range(num)]


def brightness(body: dict[str, Any]) -> Reply:
    """Answers as Brightness scores, read back from what was sent."""
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in body["images"]]
    return 200, {"scores": [float(image.mean()) / 255 for image in images]}


def test_a_judge_ranks_by_pickscore(tmp_path: Path) -> None:
    source = f"pickscore:{make_clip(tmp_path / 'clip')}"
    config = load_config(
        "tiny", ["judge.first_round=reward", f"judge.reward_models.attribute={source}", "prompts.aspects=[attribute]"]
    )
    judge = open_judge("reward", config, lambda kind: open_scorer(kind, config, CPU, STORE))
    images = dict(zip(("one", "two", "three"), pictures(), strict=True))
    found = judge.judge(prompts(1)[0], images)["attribute"]
    model = load_any_reward(source)
    pixels = torch.from_numpy(np.stack(list(images.values()))).permute(0, 3, 1, 2).float() / 255
    wanted = model.score(pixels, *model.tokenize(["the blue dog"] * 3)).tolist()
    assert list(found.scores.values()) == pytest.approx(wanted, rel=1e-4)
    order = sorted(images, key=lambda name: -wanted[list(images).index(name)])
    assert found.ranking.places == tuple((name,) for name in order)


def test_a_class_of_a_users_own_and_an_address_that_scores_alike_judge_alike() -> None:
    sizes = [*pictures(2, 32), *pictures(2, 20)]
    with json_server(brightness) as (url, asked):
        sources = {"attribute": BRIGHT, "spatial": url}
        found = RewardScorer(sources, CPU).score(prompts(4, ("attribute", "spatial")), sizes)
    assert [one["attribute"].value for one in found] == pytest.approx([one["spatial"].value for one in found], abs=1e-6)
    assert {one["attribute"].passed for one in found} == {None}, "such a scorer has no mark to pass"
    assert [body["prompts"] for body in asked] == [["the blue dog", "a red cat"] * 2]
    assert set(asked[0]) == {"path", "key", "images", "prompts"}


def test_scorers_are_asked_only_about_the_aspects_of_a_prompt() -> None:
    about = [prompts(1, ("spatial",))[0], prompts(1, ("attribute",))[0]]
    with json_server(brightness) as (url, asked):
        found = RewardScorer({"spatial": url}, CPU).score(about, pictures(2))
    assert [set(one) for one in found] == [{"spatial"}, set()]
    assert [len(body["images"]) for body in asked] == [1]


def test_many_images_are_sent_in_parts_and_keep_their_order() -> None:
    num = 2 * REMOTE_BATCH + 3
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(num)]
    with json_server(brightness) as (url, asked):
        found = RemoteScorer(url).score_images(images, ["a cat"] * num)
    assert found == pytest.approx([i / 255 for i in range(num)])
    assert sorted(len(body["images"]) for body in asked) == [3, REMOTE_BATCH, REMOTE_BATCH]


def test_an_image_that_cannot_be_scored_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with json_server(lambda body: (200, {"scores": [0.5, None, 1]})) as (url, _):
        found = RewardScorer({"attribute": url}, CPU).score(prompts(), pictures())
    assert [one["attribute"].value if one else None for one in found] == [0.5, None, 1.0]
    assert "1 of 3 images have no score on attribute" in caplog.text


def test_a_busy_scorer_is_asked_again() -> None:
    replies: list[Reply] = [(503, "starting"), (429, {}, {"Retry-After": "0"}), "too slow", (200, {"scores": [2]})]
    with json_server(lambda body: replies.pop(0)) as (url, asked):
        assert RemoteScorer(url, first_wait_s=0.01, timeout_s=0.3).score_images(pictures(1), ["a"]) == [2.0]
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("reply", "reason", "num_asked"),
    [
        ((500, "boom"), rf"no answer in {MAX_RETRIES + 1} tries, the last: status 500.*--resume", MAX_RETRIES + 1),
        ((404, "nothing here"), "refuses: status 404: nothing here", 1),
        ((200, "no JSON"), "answered 'no JSON': must be", 1),
        ((200, {"values": [1]}), "must be .*scores", 1),
        ((200, {"scores": ["high"]}), "must be .*scores", 1),
        ((200, {"scores": [1, 2]}), r"gave 2 scores, \[1.0, 2.0\]..., for 1 images", 1),
        ((200, '{"scores": [NaN]}'), "finite", 1),
    ],
)
def test_a_scorer_that_fails_is_named_with_its_answer(reply: Reply, reason: str, num_asked: int) -> None:
    with json_server(lambda body: reply) as (url, asked):
        with pytest.raises(JudgeError, match=rf"the scorer {url} .*{reason}"):
            RemoteScorer(url, first_wait_s=0.001).score_images(pictures(1), ["a"])
    assert len(asked) == num_asked


def test_a_run_asks_the_address_before_it_starts() -> None:
    with json_server(brightness) as (url, asked):
        check_answers("judge.reward_models.spatial", url)
        assert asked[0]["prompts"] == ["a red square"]
    with json_server(lambda body: (401, "who are you")) as (url, _):
        with pytest.raises(ConfigError, match=r"judge\.reward_models\.spatial: the scorer .* status 401: who are you"):
            check_answers("judge.reward_models.spatial", url)


def test_a_closed_port_is_told(unused_url: str) -> None:
    with pytest.raises(JudgeError, match=r"gave no answer in .* the last: ConnectError"):
        RemoteScorer(unused_url, first_wait_s=0.001).score_images(pictures(1), ["a"])


@pytest.fixture
def unused_url() -> str:
    with json_server(brightness) as (url, _):
        return url  # the server is gone by the time that the test runs


def test_a_judge_behind_an_address_is_given_several_prompts_at_a_time() -> None:
    with json_server(brightness) as (url, asked):
        config = load_config("tiny", ["judge.first_round=reward", "prompts.aspects=[attribute]", f"{JUDGE}={url}"])
        judge = open_judge("reward", config, lambda kind: open_scorer(kind, config, CPU, STORE))
        images = [dict(zip(("one", "two"), pictures(2), strict=True)) for _ in range(judge.num_prompts)]
        found = judge.judge_all(prompts(judge.num_prompts), images)
    assert [one["attribute"].ranking.places for one in found] == [(("two",), ("one",))] * judge.num_prompts
    assert len(asked) == 1 < judge.num_prompts
    here = load_config("tiny", ["judge.first_round=reward", "prompts.aspects=[attribute]", f"{JUDGE}={BRIGHT}"])
    assert open_judge("reward", here, lambda kind: open_scorer(kind, here, CPU, STORE)).num_prompts == 1
