"""Answers of an OpenAI chat endpoint that is asked about images, and settings of a judge that asks it."""

import base64
import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import VlmConfig

_ASKED = re.compile(r"Does this picture show (?:exactly )?\"?(.+?)\"?(?:, no more and no fewer)?\?")


def vlm_settings(url: str | None, **changes: Any) -> VlmConfig:
    """base.yaml's settings for an endpoint, without patience unless asked for."""
    settings = load_config("base").judge.vlm
    return replace(settings, **({"model": "m", "url": url, "timeout_s": 20.0, "max_retries": 0} | changes))


def said_with(p_yes: float, before: str = "") -> tuple[int, Any]:
    """An answer of one word whose log-probabilities say P(yes); `before` is a token of reasoning before it."""
    p = min(max(p_yes, 1e-12), 1 - 1e-12)
    logprobs = {"Yes": math.log(p), "No": math.log1p(-p)}
    word = max(logprobs, key=lambda name: logprobs[name])
    top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    tokens = [{"token": word, "logprob": logprobs[word], "top_logprobs": top}]
    if before:
        other = {"token": before, "logprob": -0.1}
        tokens.insert(0, other | {"top_logprobs": [other]})
    return said(before + word, logprobs={"content": tokens})


def said(text: Any, reason: str = "stop", **fields: Any) -> tuple[int, Any]:
    """An answer without log-probabilities, or with those in `fields`."""
    message = {"role": "assistant", "content": text}
    used = {"prompt_tokens": 100, "completion_tokens": 2}
    return 200, {"choices": [{"finish_reason": reason, "message": message, **fields}], "usage": used}


def image_of(body: dict[str, Any]) -> NDArray[np.uint8]:
    """The image [H, W, 3] that a request is about."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) as image:
        return np.asarray(image)


def words_of(body: dict[str, Any]) -> str:
    """What a request asks, with the words on how to answer."""
    return body["messages"][0]["content"][1]["text"]


def statement_of(body: dict[str, Any]) -> str:
    """What the image of a request is asked to show."""
    found = _ASKED.match(words_of(body))
    assert found is not None, words_of(body)
    return found[1]
