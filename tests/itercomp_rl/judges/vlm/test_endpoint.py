"""A model behind an endpoint: its answers, whatever form they have, and what happens when there is none."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any

import numpy as np
import pytest

from itercomp_rl.errors import ConfigError, JudgeError
from itercomp_rl.judges.vlm.endpoint import EndpointVlm
from itercomp_rl.judges.vlm.model import Asked, Usage, Verdict
from itercomp_rl.judges.vlm.preflight import check_endpoint_answers
from tests.parts.json_server import Reply, json_server
from tests.parts.vlm_server import image_of, said, said_with, statement_of, vlm_settings, words_of

KEY = "sk-secret-0123456789"
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
QUESTION = "Does this picture show a cat?"


def vlm(url: str, usage: Usage | None = None, **changes: Any) -> EndpointVlm:
    return EndpointVlm(vlm_settings(url, **changes), usage or Usage(), first_wait_s=0.01)


def ask(model: EndpointVlm, num: int = 1) -> list[Verdict]:
    return list(model.ask([Asked(image=IMAGE, question=QUESTION)] * num))


def test_an_image_and_a_question_become_a_probability() -> None:
    with json_server(lambda _: said_with(0.8)) as (url, asked):
        model = vlm(url)
        [verdict] = ask(model)
    assert verdict.p_yes == pytest.approx(0.8)
    assert (verdict.how, verdict.text) == ("logprobs", "Yes")
    [body] = asked
    assert body["path"] == "/v1/chat/completions"
    assert body["key"] is None
    assert (body["model"], body["logprobs"], body["top_logprobs"], body["temperature"]) == ("m", True, 20, 0)
    assert np.array_equal(image_of(body), IMAGE)
    assert statement_of(body) == "a cat"
    assert (model.usage.requests, model.usage.tokens_in, model.usage.tokens_out) == (1, 100, 2)


def test_reasoning_before_the_answer_is_passed_over() -> None:
    with json_server(lambda _: said_with(0.3, before="<think>No? No. Yes!</think>")) as (url, _):
        assert ask(vlm(url))[0].p_yes == pytest.approx(0.3)


def test_a_server_that_is_busy_is_asked_again_as_late_as_it_says() -> None:
    replies = iter([(429, "slow down", {"Retry-After": "1"}), (503, "later"), said_with(0.9)])
    with json_server(lambda _: next(replies)) as (url, asked):
        began = time.monotonic()
        [verdict] = ask(vlm(url, max_retries=2))
    assert verdict.p_yes == pytest.approx(0.9)
    assert len(asked) == 3
    assert time.monotonic() - began >= 1


def test_a_retry_may_be_named_by_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    replies = iter([(429, "slow down", {"Retry-After": later}), said_with(0.9)])
    with json_server(lambda _: next(replies)) as (url, _):
        began = time.monotonic()
        ask(vlm(url, max_retries=1))
    assert time.monotonic() - began >= 0.9  # the date has whole seconds


@pytest.mark.parametrize(
    "reply", ["{" + " " * 100, (200, "{not JSON"), (200, {"choices": []}), (200, [1]), 8.0, (500, "x")]
)
def test_a_question_that_is_never_answered_is_dropped_and_not_guessed(reply: Reply) -> None:
    replies = iter([reply, reply])
    with json_server(lambda _: next(replies, said_with(0.9))) as (url, asked):
        model = vlm(url, timeout_s=2.0, max_retries=1)
        [lost] = ask(model)
        assert (lost.p_yes, lost.how) == (None, "failed")
        assert len(asked) == 2
        assert ask(model)[0].p_yes == pytest.approx(0.9)  # the next one is asked as ever


def test_an_endpoint_that_answers_no_more_stops_the_work_with_its_reason() -> None:
    with json_server(lambda _: (502, "bad gateway")) as (url, asked):
        model = vlm(url, parallel=1, max_retries=1)
        with pytest.raises(JudgeError, match=r"answers no more.*2 tries.*status 502.*--resume"):
            ask(model, 100)
    assert len(asked) <= 10  # and not 200


def test_a_key_that_is_refused_stops_at_once_and_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_KEY", KEY)
    with json_server(lambda _: (401, f"bad key {KEY}")) as (url, asked):
        with pytest.raises(JudgeError, match="status 401") as caught:
            ask(vlm(url, key_env="VLM_KEY", max_retries=5))
    assert KEY not in str(caught.value)
    assert [body["key"] for body in asked] == [f"Bearer {KEY}"]


def test_a_missing_key_is_named_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLM_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"judge.vlm's key_env is 'VLM_KEY'.*not set"):
        vlm("http://localhost:1/v1", key_env="VLM_KEY")


def test_a_refused_image_is_dropped_and_others_go_on() -> None:
    replies = iter([(400, "content filter"), said("", "content_filter"), said_with(0.6)])
    with json_server(lambda _: next(replies)) as (url, asked):
        first, second, third = ask(vlm(url, parallel=1, max_retries=3), 3)
    assert (first.p_yes, first.how) == (second.p_yes, second.how) == (None, "refused")
    assert third.p_yes == pytest.approx(0.6)
    assert len(asked) == 3  # a refusal is not retried


@pytest.mark.parametrize("refuses", [False, True])
def test_without_log_probabilities_it_is_asked_on_a_scale(refuses: bool) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if refuses and "logprobs" in body:
            return 400, {"error": {"message": "logprobs are not supported with this model"}}
        return said("4") if "from 1 to 5" in words_of(body) else said("Yes")

    with json_server(reply) as (url, asked):
        verdicts = ask(vlm(url, parallel=1), 3)
    assert [(verdict.p_yes, verdict.how) for verdict in verdicts] == [(0.75, "scale")] * 3
    assert sum("logprobs" in body for body in asked) == 1  # it is not tried again


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (said("I cannot say"), "is no number from 1 to 5"),
        (said("<think>well", "length"), "cut off after judge.vlm.max_tokens"),
        (said("", logprobs={"content": [{"token": "It", "logprob": 0.0}]}), "neither yes nor no"),
    ],
)
def test_an_answer_that_cannot_be_read_twice_is_dropped_with_its_reason(reply: Reply, why: str) -> None:
    with json_server(lambda _: reply) as (url, _):
        [verdict] = ask(vlm(url))
    assert (verdict.p_yes, verdict.how) == (None, "unreadable")
    assert why in verdict.text


def test_an_answer_that_can_be_read_the_second_time_counts() -> None:
    replies = iter([said("", logprobs={"content": [{"token": "Hm", "logprob": 0.0}]}), said_with(0.2)])
    with json_server(lambda _: next(replies)) as (url, _):
        assert ask(vlm(url))[0].p_yes == pytest.approx(0.2)


def test_a_field_that_a_server_does_not_take_is_left_out() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        for name, other in (("max_tokens", "use 'max_completion_tokens'"), ("temperature", "only the default")):
            if name in body:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported, {other}"}}
        return said_with(0.7)

    with json_server(reply) as (url, asked):
        assert [verdict.p_yes for verdict in ask(vlm(url, parallel=1), 2)] == pytest.approx([0.7, 0.7])
    assert "max_completion_tokens" in asked[-1]
    assert len(asked) == 4  # the form that was answered is kept


def test_many_requests_are_in_flight_and_never_more_than_allowed() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def reply(body: dict[str, Any]) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return said_with(0.5)

    with json_server(reply) as (url, _):
        assert len(ask(vlm(url, parallel=4), 24)) == 24
    assert 2 <= most <= 4


def test_answers_keep_the_order_of_the_questions() -> None:
    p = {f"thing {i}": i / 20 for i in range(1, 20)}
    with json_server(lambda body: said_with(p[statement_of(body)])) as (url, _):
        asked = [Asked(image=IMAGE, question=f"Does this picture show {name}?") for name in p]
        found = [verdict.p_yes for verdict in vlm(url, parallel=8).ask(asked)]
    assert found == pytest.approx(list(p.values()))


def test_the_budget_counts_every_request_and_what_was_answered_before_it_is_kept() -> None:
    numbers = count()
    with json_server(lambda _: (503, "later") if next(numbers) % 2 == 0 else said_with(0.5)) as (url, asked):
        model = vlm(url, Usage(max_requests=5, limit="5 in all"), parallel=1, max_retries=3)
        answers = model.ask([Asked(image=IMAGE, question=QUESTION)] * 9)
        assert [next(answers).p_yes, next(answers).p_yes] == pytest.approx([0.5, 0.5])
        with pytest.raises(JudgeError, match=r"judge.vlm.max_requests is spent \(5 in all\)"):
            next(answers)
    assert len(asked) == 5


def test_a_text_is_told_without_an_image() -> None:
    with json_server(lambda _: said(json.dumps({"objects": ["a dog"]}))) as (url, asked):
        assert "a dog" in vlm(url).tell("List.", "a dog")
    assert asked[0]["messages"][0]["content"] == "List.\nDescription: a dog"


def test_before_a_run_the_endpoint_is_asked_about_a_red_square() -> None:
    with json_server(lambda body: said_with(0.99)) as (url, asked):
        check_endpoint_answers(vlm_settings(url))
    assert (image_of(asked[0])[32, 32] == (255, 0, 0)).all()
    assert "a red square" in words_of(asked[0])


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((404, "no such model"), "status 404: no such model"),
        ((400, "this model takes no images"), "refused.*takes no images"),
        (said("What a nice picture"), "unreadable"),
    ],
)
def test_a_run_does_not_start_with_an_endpoint_that_cannot_judge(reply: Reply, why: str) -> None:
    with json_server(lambda _: reply) as (url, _):
        with pytest.raises(ConfigError, match=f"judge.vlm.url is '{url}'.*{why}"):
            check_endpoint_answers(vlm_settings(url))


def test_nor_with_one_that_is_not_there() -> None:
    with json_server(lambda _: said_with(0.5)) as (url, _):
        pass
    with pytest.raises(ConfigError, match=r"judge.vlm.url is .*ConnectError.*start the endpoint"):
        check_endpoint_answers(vlm_settings(url))
