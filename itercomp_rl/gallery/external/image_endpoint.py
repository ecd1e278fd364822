"""A model behind an endpoint of the OpenAI images protocol: vLLM-Omni, SGLang or a hosted one.

One image is asked for at a time, so that each has its own seed. What is sent (`seed` and the three last are the
servers' own additions to the protocol):

    POST {url}/images/generations
    {"model", "prompt", "n": 1, "size": "1024x1024", "response_format": "b64_json", "seed",
     "num_inference_steps", "guidance_scale", "negative_prompt"}
"""

import base64
import binascii
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from itercomp_rl.config.schema import ImageEndpointConfig
from itercomp_rl.errors import ConfigError, GalleryError
from itercomp_rl.files.pictures import PictureError, decode, squared
from itercomp_rl.gallery.planning.endpoint import ABOUT_THE_PROMPT, CONTENT_FILTER, general_reason
from itercomp_rl.items import ModelRef
from itercomp_rl.network.endpoint import Endpoint, is_worth_a_retry, retry_wait_s

log = logging.getLogger(__name__)

SEEDS = 2**31  # servers keep a seed in 32 bits
NUM_FAILED_IN_A_ROW = 3  # images without any answer after all retries, and no other answered: the endpoint is down
NUM_REFUSED_IN_A_ROW = 8  # images refused for one reason, and none drawn between them: the reason is no prompt's
_NEED_NOT_BE_SENT = ("response_format", "seed")  # some servers refuse these


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer(image=np.zeros((64, 64, 3), np.uint8), why=None, note={"seed": 7}): `why` says why there is no image."""

    image: NDArray[np.uint8] | None = field(repr=False)
    why: str | None = None
    is_refused: bool = False  # the endpoint is up, and does not draw this prompt
    note: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


class ImageEndpoint:
    """Asks for images, many at a time; tries again, ever later, where that can help."""

    def __init__(self, name: str, settings: ImageEndpointConfig, *, first_wait_s: float = 1.0) -> None:
        """Raises: ConfigError if the key's variable is not set, or the environment's proxy cannot be used."""
        self._name, self._settings, self._first_wait_s = name, settings, first_wait_s
        url = f"{settings.url.rstrip('/')}/images/generations"
        owner = f"gallery.endpoints.{name}'s"
        self._endpoint = Endpoint(url, settings.key_env, owner, "that samples, and on the driver's")
        self._left_out: frozenset[str] = frozenset()  # fields that the server refused
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._refused_in_a_row = 0  # for one reason, since the last drawn image; a filter's refusals do not count
        self._refused_because = ""

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """An answer for each prompt and seed, in their order.

        Raises: GalleryError if the endpoint is down, refuses the request as such, or refuses so many images in a row
        for one reason that it is no prompt's (a content filter's refusals do not count); ConfigError if an image is not
        square.
        """
        pool = ThreadPoolExecutor(max_workers=self._settings.parallel)
        try:
            return list(pool.map(lambda prompt, seed: self._image(model, prompt, seed), prompts, seeds))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the other images need not be paid for

    def _image(self, model: ModelRef, prompt: str, seed: int) -> Answer:
        settings, reason, response = self._settings, "", None
        for attempt in range(settings.max_retries + 1):
            if attempt:
                time.sleep(retry_wait_s(attempt, self._first_wait_s, response))
            try:
                response, sent = self._response(model, prompt, seed)
            except TimeoutError:
                reason, response = f"no answer within {settings.timeout_s:g} s", None
                continue
            except httpx.RequestError as error:
                reason, response = self._endpoint.hidden(f"{type(error).__name__} {error}"), None
                continue
            except (httpx.InvalidURL, ValueError) as error:
                raise ConfigError(f"{self._key}.url is {settings.url!r}, which cannot be opened: {error}") from error
            if is_worth_a_retry(response.status_code):
                reason = f"status {response.status_code}"
                continue
            if response.status_code in ABOUT_THE_PROMPT:
                return self._refused(prompt, response)
            if response.status_code != 200:
                raise GalleryError(
                    f"{self._key}.url is {settings.url!r}: status {response.status_code}: {self._said(response)}"
                )
            try:
                found = response.json()["data"][0]
                pixels = decode(base64.b64decode(found["b64_json"], validate=True))
            except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
                reason = f"no image as base64 in the OpenAI images protocol ({error}): {self._said(response)!r}"
                continue
            with self._lock:
                self._failed_in_a_row = self._refused_in_a_row = 0
            note = {"endpoint": self._name, "seed": sent.get("seed")}
            if revised := found.get("revised_prompt"):
                note["revised_prompt"] = str(revised)
            return Answer(image=self._squared(model, pixels), note=note)
        return self._failed(reason)

    def _response(self, model: ModelRef, prompt: str, seed: int) -> tuple[httpx.Response, dict[str, Any]]:
        """The response with what was sent, again without a field that a refusal names and that need not be there."""
        while True:
            left_out = self._left_out
            body = {name: value for name, value in _body(model, prompt, seed).items() if name not in left_out}
            response = self._endpoint.post(body, self._settings.timeout_s)
            if response.status_code not in ABOUT_THE_PROMPT:
                return response, body
            # In quotes, as errors name a field: a prompt about seeds may be refused too.
            refused = {name for name in _NEED_NOT_BE_SENT if name in body and _named(name, response.text)}
            if not refused:
                return response, body
            with self._lock:
                for name in refused - self._left_out:
                    why = "so that its images cannot be drawn again" if name == "seed" else "which it may not need"
                    log.warning("%s refuses the field %s, %s: it is left out from now on", self._key, name, why)
                self._left_out |= refused

    def _squared(self, model: ModelRef, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            return squared(pixels, model.size_px)
        except PictureError as error:
            raise ConfigError(
                f"gallery.members.{model.name}.size_px is {model.size_px}, and an image of its endpoint {error}: name "
                "a side that the endpoint draws"
            ) from error

    def _said(self, response: httpx.Response) -> str:
        return self._endpoint.hidden(response.text)[:200]

    @property
    def _key(self) -> str:
        return f"gallery.endpoints.{self._name}"

    def _refused(self, prompt: str, response: httpx.Response) -> Answer:
        """Raises: GalleryError where so many images in a row were refused for one reason that it is no prompt's."""
        why = f"refused with status {response.status_code}: {self._said(response)}"
        refused = Answer(image=None, why=why, is_refused=True)
        with self._lock:
            self._failed_in_a_row = 0
            if CONTENT_FILTER.search(response.text):
                return refused
            reason = general_reason(response.text, prompt)
            self._refused_in_a_row = self._refused_in_a_row + 1 if reason == self._refused_because else 1
            self._refused_because = reason
            if self._refused_in_a_row < NUM_REFUSED_IN_A_ROW:
                return refused
        raise GalleryError(
            f"{self._key}.url is {self._settings.url!r}, which draws no more: the last image was {why} "
            f"({NUM_REFUSED_IN_A_ROW} images in a row for one reason, which is then no prompt's). Mend that, and go on "
            "with --resume: committed images are kept"
        )

    def _failed(self, reason: str) -> Answer:
        """Raises: GalleryError where so many images in a row failed that the endpoint must be down."""
        tries = f"gave no image in {self._settings.max_retries + 1} tries, the last: {reason}"
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row < NUM_FAILED_IN_A_ROW:
                return Answer(image=None, why=tries)
        raise GalleryError(
            f"{self._key}.url is {self._settings.url!r}, which answers no more: it {tries} "
            f"({NUM_FAILED_IN_A_ROW} images in a row). Start it again there, and go on with --resume: committed images "
            "are kept"
        )


def _named(field_: str, refusal: str) -> bool:
    return re.search(rf"[\"'`]{field_}\\?[\"'`]", refusal) is not None


def _body(model: ModelRef, prompt: str, seed: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model.checkpoint,
        "prompt": prompt,
        "n": 1,
        "size": f"{model.size_px}x{model.size_px}",
        "response_format": "b64_json",
        "seed": seed % SEEDS,
    }
    if model.num_steps:
        body["num_inference_steps"] = model.num_steps
    if model.guidance != 1:
        body["guidance_scale"] = model.guidance
    if model.negative is not None:
        body["negative_prompt"] = model.negative
    return body
