"""An endpoint of the OpenAI images protocol: what it is sent, when it is asked again, and what it refuses."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from itercomp_rl.config.schema import ImageEndpointConfig
from itercomp_rl.errors import ConfigError, GalleryError
from itercomp_rl.gallery.external.endpoint_system import EndpointSystem
from itercomp_rl.gallery.external.image_endpoint import SEEDS, ImageEndpoint
from itercomp_rl.items import ModelRef
from tests.parts.image_server import file_of, said_image
from tests.parts.json_server import Reply, json_server

MODEL = ModelRef(name="served", checkpoint="big", num_steps=0, system="endpoint", endpoint="hall", size_px=16)


def picture(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def by_seed(body: dict[str, Any]) -> Reply:
    return said_image(file_of(picture(body["seed"])))


def endpoint(url: str, **settings: Any) -> ImageEndpoint:
    return ImageEndpoint("hall", ImageEndpointConfig(url=url, **settings), first_wait_s=0.01)


def test_each_image_is_asked_for_with_its_own_seed_and_comes_back_in_order() -> None:
    seeds = [5, 3, 2**62 + 9, 1]
    with json_server(by_seed) as (url, asked):
        answers = endpoint(url).draw(MODEL, ["a", "b", "c", "d"], seeds)
    for seed, answer in zip(seeds, answers, strict=True):
        np.testing.assert_array_equal(answer.image, picture(seed % SEEDS))
        assert answer.note == {"endpoint": "hall", "seed": seed % SEEDS}
    first = next(body for body in asked if body["prompt"] == "a")
    assert first == {
        "path": "/v1/images/generations",
        "key": None,
        "model": "big",
        "prompt": "a",
        "n": 1,
        "size": "16x16",
        "response_format": "b64_json",
        "seed": 5,
    }


def test_steps_guidance_and_a_negative_prompt_are_sent_where_the_member_sets_them() -> None:
    with json_server(by_seed) as (url, asked):
        endpoint(url).draw(replace(MODEL, num_steps=9, guidance=4.5, negative="blurry"), ["a"], [1])
    assert {name: asked[0][name] for name in ("num_inference_steps", "guidance_scale", "negative_prompt")} == {
        "num_inference_steps": 9,
        "guidance_scale": 4.5,
        "negative_prompt": "blurry",
    }


def test_no_more_requests_are_in_flight_than_the_settings_allow() -> None:
    most, now, lock = 0, 0, threading.Lock()
    full = threading.Barrier(3)

    def reply(body: dict[str, Any]) -> Reply:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        full.wait(10)  # passes only if three are here at once
        with lock:
            now -= 1
        return by_seed(body)

    with json_server(reply) as (url, _):
        endpoint(url, parallel=3).draw(MODEL, list("abcdef"), range(6))
    assert most == 3


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"error": "slow down"}, {"Retry-After": "0"}),
        (503, "loading"),
        (200, "not JSON"),
        (200, {"data": []}),
        (200, {"data": [{"url": "http://elsewhere/a.png"}]}),
        (200, {"data": [{"b64_json": "%%%"}]}),
        said_image(b"no image"),
        said_image(file_of(picture(1))[:-40]),
    ],
)
def test_what_may_pass_is_tried_again(trouble: Reply) -> None:
    replies = [trouble, trouble]
    with json_server(lambda body: replies.pop() if replies else by_seed(body)) as (url, asked):
        [answer] = endpoint(url, max_retries=2).draw(MODEL, ["a"], [4])
    np.testing.assert_array_equal(answer.image, picture(4))
    assert len(asked) == 3


def test_a_refused_prompt_is_missing_and_the_others_are_drawn() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return (400, {"error": {"message": "the safety system"}}) if body["prompt"] == "b" else by_seed(body)

    with json_server(reply) as (url, asked):
        system = EndpointSystem({"hall": ImageEndpointConfig(url=url)})
        drawn = system.draw(MODEL, ["a", "b", "c"], [1, 2, 3])
    assert list(drawn.missing) == [1]
    assert drawn.missing[1].startswith("refused with status 400: ")
    assert not drawn.images[1].any()
    assert drawn.notes[1] == {"missing": drawn.missing[1]}
    np.testing.assert_array_equal(drawn.images[2], picture(3))
    assert len(asked) == 3, "a refusal is not tried again"


def test_an_endpoint_that_begins_to_refuse_everything_for_one_reason_ends_the_drawing() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return 400, {"error": f"request {body['seed']} of {body['prompt']}: the budget is spent"}

    prompts = [f"cup {letter}" for letter in "abcdefgh"]
    with json_server(reply) as (url, _):
        one = endpoint(url, parallel=1)
        assert all(answer.is_refused for answer in one.draw(MODEL, prompts[:7], range(7)))
        with pytest.raises(GalleryError, match=r"draws no more: .*the budget is spent.* \(8 images in a row"):
            one.draw(MODEL, prompts[7:], [7])


def test_refusals_of_a_content_filter_for_other_reasons_or_between_drawn_images_end_nothing() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        if body["prompt"] == "fine":
            return by_seed(body)
        return 400, {"error": body["prompt"] if body["prompt"] == "safety" else "xy"[body["seed"] % 2] + "-reason"}

    prompts = ["safety"] * 9 + ["other"] * 9 + (["same"] * 7 + ["fine"]) * 2
    seeds = [*range(18), *[2] * 16]
    with json_server(reply) as (url, _):
        answers = endpoint(url, parallel=1).draw(MODEL, prompts, seeds)
    assert sum(answer.is_refused for answer in answers) == 32


def test_a_key_at_the_place_where_a_message_is_cut_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALL_KEY", "sk-secret")
    with json_server(lambda body: (401, "x" * 194 + "sk-secret")) as (url, _):
        with pytest.raises(GalleryError) as error:
            endpoint(url, key_env="HALL_KEY").draw(MODEL, ["a"], [1])
    assert "sk-s" not in str(error.value)


def test_a_field_that_a_server_does_not_know_is_left_out_from_then_on() -> None:
    def reply(body: dict[str, Any]) -> Reply:
        for name in ("response_format", "seed"):
            if name in body:
                return 400, {"error": {"message": f"Unknown parameter: '{name}'."}}
        return said_image(file_of(picture(len(body["prompt"]))), revised_prompt="a very red cup")

    with json_server(reply) as (url, asked):
        one = endpoint(url, parallel=1)
        first, second = one.draw(MODEL, ["a", "bb"], [1, 2])
    np.testing.assert_array_equal(second.image, picture(2))
    assert first.note == {"endpoint": "hall", "seed": None, "revised_prompt": "a very red cup"}
    assert len(asked) == 4


def test_a_refusal_that_quotes_a_prompt_about_seeds_leaves_the_seed_in() -> None:
    refused = (400, {"error": "the prompt 'a bowl of seeds, one seed in a hand' is not allowed"})
    with json_server(lambda body: refused if "seed" in body["prompt"] else by_seed(body)) as (url, asked):
        _, fine = endpoint(url, parallel=1).draw(MODEL, ["a bowl of seeds, one seed in a hand", "a"], [1, 2])
    assert fine.image is not None
    assert all("seed" in body for body in asked)


def test_an_endpoint_that_is_down_ends_the_drawing_and_one_lost_image_does_not() -> None:
    with pytest.raises(GalleryError, match=r"hall\.url is 'http://127\.0\.0\.1:1/v1', which answers no more"):
        endpoint("http://127.0.0.1:1/v1", max_retries=0).draw(MODEL, list("abcd"), range(4))
    with json_server(lambda body: (500, "") if body["prompt"] == "a" else by_seed(body)) as (url, _):
        lost, drawn = endpoint(url, max_retries=1).draw(MODEL, ["a", "b"], [1, 2])
    assert lost.image is None
    assert lost.why == "gave no image in 2 tries, the last: status 500"
    assert drawn.image is not None


def test_a_silent_and_a_dripping_endpoint_are_given_up_after_the_time_limit() -> None:
    for reply in (5.0, "x" * 40):
        with json_server(lambda body, reply=reply: reply) as (url, _):
            [answer] = endpoint(url, max_retries=0, timeout_s=0.2).draw(MODEL, ["a"], [1])
        assert answer.why == "gave no image in 1 tries, the last: no answer within 0.2 s"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_prompt_is_the_reason_of_ends_the_drawing_without_the_key(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALL_KEY", "sk-secret")
    with json_server(lambda body: (status, {"error": "wrong key sk-secret"})) as (url, asked):
        with pytest.raises(GalleryError, match=f"status {status}: .*wrong key") as error:
            endpoint(url, key_env="HALL_KEY").draw(MODEL, ["a"], [1])
    assert "sk-secret" not in str(error.value)
    assert asked[0]["key"] == "Bearer sk-secret"


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gallery\.endpoints\.hall's key_env is 'NO_SUCH_KEY'"):
        endpoint("http://localhost/v1", key_env="NO_SUCH_KEY")


def test_a_square_image_of_another_side_is_resized_and_one_that_is_not_square_is_refused() -> None:
    with json_server(lambda body: said_image(file_of(np.full((32, 32, 3), 50, np.uint8)))) as (url, _):
        [answer] = endpoint(url).draw(MODEL, ["a"], [1])
    np.testing.assert_array_equal(answer.image, np.full((16, 16, 3), 50, np.uint8))
    with json_server(lambda body: said_image(file_of(picture(1)[:8]))) as (url, _):
        with pytest.raises(ConfigError, match=r"served\.size_px is 16, and an image of its endpoint is 16x8 pixels"):
            endpoint(url).draw(MODEL, ["a"], [1])
