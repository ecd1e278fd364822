"""Scores are means over an aspect's own questions; nothing is asked twice, and what has no answer has no score."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from itercomp_rl.errors import JudgeError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.scoring import ByScore
from itercomp_rl.judges.vlm.answers import answers_sentence, answers_tree
from itercomp_rl.judges.vlm.endpoint import EndpointVlm
from itercomp_rl.judges.vlm.model import Usage
from itercomp_rl.judges.vlm.scorer import VlmScorer, usage_of
from itercomp_rl.store.store import Store, open_store
from tests.parts.json_server import Reply, json_server
from tests.parts.vlm_server import image_of, said, said_with, statement_of, vlm_settings, words_of

PROMPT = Prompt(id="p", text="three red cups left of a dog", aspects=("attribute", "spatial"))
P = {
    "red cups": 0.9,
    "a dog": 0.7,
    "three red cups": 0.2,
    "three red cups to the left of a dog": 0.6,
}
IMAGES = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)]


@pytest.fixture
def store() -> Store:
    return open_store("memory://", create=True)


def scorer(url: str, store: Store, **changes: Any) -> VlmScorer:
    settings = vlm_settings(url, **changes)
    return VlmScorer(settings, ["attribute", "spatial"], store, EndpointVlm(settings, Usage(), first_wait_s=0.01))


def by_brightness(body: dict[str, Any]) -> Reply:
    return said_with(image_of(body)[0, 0, 0] / 100)


def test_an_aspects_score_is_the_mean_of_its_own_atoms_alone(store: Store) -> None:
    with json_server(lambda body: said_with(P[statement_of(body)])) as (url, asked):
        [found] = scorer(url, store).score([PROMPT], IMAGES[:1])
    assert len(asked) == 4
    assert found["attribute"].value == pytest.approx((0.9 + 0.7) / 2)
    assert found["spatial"].value == pytest.approx((0.2 + 0.6) / 2)
    assert found["attribute"].passed  # every statement is likelier than not
    assert not found["spatial"].passed


def test_a_run_that_goes_on_and_another_judge_ask_nothing_twice(store: Store) -> None:
    with json_server(by_brightness) as (url, asked):
        first = scorer(url, store).score([PROMPT] * 2, [IMAGES[0], IMAGES[0].copy()])
        assert len(asked) == 4  # the same image under two names is one image
        assert scorer(url, store).score([PROMPT], IMAGES[:1]) == first[:1]
        assert len(asked) == 4
        scorer(url, store).score([PROMPT], [IMAGES[0].reshape(4, 16, 3)])  # the same bytes in another shape
        scorer(url, store, model="another").score([PROMPT], IMAGES[:1])
    assert len(asked) == 12


def test_an_image_without_an_answer_is_left_out_and_counted(store: Store) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        is_refused = image_of(body)[0, 0, 0] == 20 and statement_of(body) == "a dog"
        return (400, "content filter") if is_refused else by_brightness(body)

    images = dict(zip("abc", IMAGES, strict=True))
    with json_server(reply) as (url, asked):
        found = ByScore(scorer(url, store)).judge(PROMPT, images)
        assert found["attribute"].ranking.places == (("c",), ("a",))
        assert found["spatial"].ranking.places == (("c",), ("b",), ("a",))
        assert ByScore(scorer(url, store)).judge(PROMPT, images) == found
    assert len(asked) == 12  # a refusal is not asked for again either
    tree = answers_tree(store)
    assert (tree["questions"], tree["by_outcome"]) == (12, {"logprobs": 11, "refused": 1})
    assert tree["tokens_in"] == 1100
    assert "12 questions, 1 of which could not be judged" in answers_sentence(tree)


def test_one_image_alone_wins_nothing(store: Store) -> None:
    is_bright: Callable[[dict[str, Any]], Reply] = lambda body: (  # noqa: E731
        said_with(0.5) if image_of(body)[0, 0, 0] == 30 else (400, "no")
    )
    with json_server(is_bright) as (url, _):
        assert ByScore(scorer(url, store)).judge(PROMPT, dict(zip("abc", IMAGES, strict=True))) == {}
        alone = ByScore(scorer(url, store)).judge(PROMPT, {"c": IMAGES[2]})
    assert alone["attribute"].ranking.places == (("c",),)


def test_an_answer_that_was_cut_off_is_asked_for_again_only_with_more_tokens(store: Store) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return said_with(0.5) if body["max_tokens"] > 50 else said("<think>", "length")

    with json_server(reply) as (url, asked):
        assert scorer(url, store, max_tokens=4).score([PROMPT], IMAGES[:1]) == [{}]
        num = len(asked)
        assert scorer(url, store, max_tokens=4).score([PROMPT], IMAGES[:1]) == [{}]
        assert len(asked) == num
        assert set(scorer(url, store, max_tokens=100).score([PROMPT], IMAGES[:1])[0]) == {"attribute", "spatial"}
    assert answers_tree(store)["by_outcome"] == {"logprobs": 4}


def test_a_model_that_answers_nothing_stops_the_run(store: Store) -> None:
    prompts = [Prompt(id=str(i), text=f"a dog and {i + 2} cats", aspects=("attribute",)) for i in range(5)]
    with json_server(lambda _: said("nice")) as (url, _):
        judge = scorer(url, store)
        for prompt in prompts[:4]:
            assert judge.score([prompt], IMAGES[:1]) == [{}]
        with pytest.raises(JudgeError, match=r"none of the last 5 prompts was answered.*'nice'.*itercomp judge"):
            judge.score(prompts[4:], IMAGES[:1])


def test_the_model_may_list_the_atoms_and_the_rules_stand_in_where_it_cannot(store: Store) -> None:
    listed = {"objects": ["a hound"], "attributes": ["red mugs"]}

    def reply(body: dict[str, Any]) -> Reply:
        content = body["messages"][0]["content"]
        if isinstance(content, str):
            return said(json.dumps(listed) if "Description: three red cups" in content else "I would rather not")
        return said_with(0.5)

    other = Prompt(id="q", text="a cat on a mat", aspects=("attribute",))
    with json_server(reply) as (url, asked):
        for _ in range(2):  # the second judge finds the list in the store
            found = scorer(url, store, atoms="model").answers([PROMPT], IMAGES[:1])
            assert [one.question for one in found[0]] == [
                "Does this picture show a hound?",
                "Does this picture show red mugs?",
            ]
        assert sum(isinstance(body["messages"][0]["content"], str) for body in asked) == 1
        [found] = scorer(url, store, atoms="model").answers([other], IMAGES[:1])
    assert [one.atom.text for one in found] == ["a cat", "a mat"]


def test_a_prompt_that_says_nothing_of_an_aspect_has_no_score_there(store: Store) -> None:
    with json_server(by_brightness) as (url, asked):
        judge = scorer(url, store)
        assert set(judge.score([Prompt(id="q", text="a dog")], IMAGES[:1])[0]) == {"attribute"}
        assert judge.score([Prompt(id="r", text="", aspects=("spatial",))], IMAGES[:1]) == [{}]
    assert all("a dog" in words_of(body) for body in asked)


def test_the_runs_budget_is_shared_and_what_was_asked_before_counts(store: Store) -> None:
    with json_server(by_brightness) as (url, _):
        scorer(url, store).score([PROMPT], IMAGES[:1])
        assert usage_of(vlm_settings(url), store, 2).max_requests is None
        assert usage_of(vlm_settings(url, max_requests=10), store, 2).max_requests == 3
        assert usage_of(vlm_settings(url, max_requests=2), store, 2).max_requests == 0
