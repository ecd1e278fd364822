"""A scorer in a process of its own, asked over HTTP, so that it runs with the packages that it was made for.

POST the address    {"images": ["<PNG, base64>", ...], "prompts": ["a red cup", ...]}
200                 {"scores": [0.71, null, ...]}     one for each image, higher is better; null: cannot be scored
"""

import base64
import io
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.errors import ConfigError, JudgeError
from itercomp_rl.network.endpoint import Endpoint, is_worth_a_retry, retry_wait_s

REMOTE_BATCH = 16  # images of one request
IN_FLIGHT = 4  # requests of one judge at a time
TIMEOUT_S = 120.0  # of one request
MAX_RETRIES = 5  # after a time-out, a lost connection, status 408, 409, 425, 429 or 5xx


class RemoteScorer:
    """Scores images by what an address answers.

    Raises: ConfigError if the proxy that the environment names for it cannot be used.
    """

    def __init__(self, url: str, *, first_wait_s: float = 1.0, timeout_s: float = TIMEOUT_S) -> None:
        self._url, self._first_wait_s, self._timeout_s = url, first_wait_s, timeout_s
        self._endpoint = Endpoint(url, None, "a scorer's", "that judges")

    def score_images(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float | None]:
        """Scores of images [H, W, 3], each under the prompt at its place; None for one that it cannot score.

        Raises: JudgeError if it does not answer after all retries, refuses, or answers in another protocol.
        """
        parts = [slice(start, start + REMOTE_BATCH) for start in range(0, len(images), REMOTE_BATCH)]
        pool = ThreadPoolExecutor(max_workers=IN_FLIGHT)
        try:
            found = pool.map(lambda part: self._part(images[part], prompts[part]), parts)
            return [score for scores in found for score in scores]
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the other images need not be scored

    def _part(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float | None]:
        body = {"images": [_png(image) for image in images], "prompts": list(prompts)}
        return self._scores(self._answer(body), len(images))

    def _answer(self, body: dict[str, Any]) -> httpx.Response:
        reason, response = "", None
        for attempt in range(MAX_RETRIES + 1):
            if attempt:
                time.sleep(retry_wait_s(attempt, self._first_wait_s, response))
            try:
                response = self._endpoint.post(body, self._timeout_s)
            except TimeoutError:
                reason, response = f"no answer within {self._timeout_s:g} s", None
                continue
            except httpx.RequestError as error:
                reason, response = f"{type(error).__name__} {error}", None
                continue
            except (httpx.InvalidURL, ValueError) as error:
                raise ConfigError(f"the scorer {self._url} cannot be opened: {error}") from error
            if not is_worth_a_retry(response.status_code):
                return response
            reason = f"status {response.status_code}"
        raise JudgeError(
            f"the scorer {self._url} gave no answer in {MAX_RETRIES + 1} tries, the last: {reason}; start it again "
            "at this address, and go on with --resume"
        )

    def _scores(self, response: httpx.Response, num: int) -> list[float | None]:
        if response.status_code != 200:
            raise JudgeError(f"the scorer {self._url} refuses: status {response.status_code}: {response.text[:200]}")
        try:
            scores = response.json()["scores"]
            found = [None if score is None else float(score) for score in scores]
        except (ValueError, KeyError, TypeError) as error:
            raise JudgeError(
                f'the scorer {self._url} answered {response.text[:200]!r}: must be {{"scores": [number or null, ...]}}'
            ) from error
        if len(found) != num or any(score is not None and not math.isfinite(score) for score in found):
            raise JudgeError(
                f"the scorer {self._url} gave {len(found)} scores, {found[:4]}..., for {num} images: must be one "
                "finite number, or null, for each"
            )
        return found


def check_answers(key: str, url: str) -> None:
    """Ask a scorer about a picture of a red square, before a run starts.

    Raises: ConfigError, naming setting `key`, if it does not answer, or in another protocol.
    """
    picture = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    try:
        RemoteScorer(url, first_wait_s=0.2, timeout_s=30.0).score_images([picture], ["a red square"])
    except JudgeError as error:
        raise ConfigError(f"{key}: {error}") from error


def _png(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)  # it travels once and is not kept
    return base64.b64encode(file.getvalue()).decode()
