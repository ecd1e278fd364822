"""A vision-language model behind an endpoint of the OpenAI chat protocol: vLLM, SGLang or a hosted one."""

import base64
import io
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.config.schema import VlmConfig
from itercomp_rl.errors import ConfigError, JudgeError
from itercomp_rl.gallery.planning.answer import CUT_REASONS
from itercomp_rl.gallery.planning.endpoint import ABOUT_THE_PROMPT, Form
from itercomp_rl.judges.vlm.model import Asked, UnansweredError, Usage, Verdict
from itercomp_rl.judges.vlm.probability import Token, p_on_scale, p_yes
from itercomp_rl.judges.vlm.questions import ON_A_SCALE, YES_OR_NO
from itercomp_rl.network.endpoint import Endpoint, is_worth_a_retry, retry_wait_s

log = logging.getLogger(__name__)

NUM_TOP = 20  # log-probabilities per token; the most that the protocol allows
NUM_READINGS = 2  # times that a question is asked whose answer cannot be read
NUM_FAILED_IN_A_ROW = 3  # questions without any answer after all retries, and no other answered: the endpoint is down
ATOM_TOKENS = 1024  # longest list of atoms; a model that reasons first has max_tokens where that is more


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's message; `tokens` is None where the endpoint gives no log-probabilities."""

    text: str
    tokens: tuple[Token, ...] | None
    is_cut: bool
    tokens_in: int
    tokens_out: int


class _FailedError(Exception):
    """No answer after all retries."""


class EndpointVlm:
    """Asks `url`/chat/completions, many questions at a time. Satisfies model.Vlm."""

    def __init__(self, settings: VlmConfig, usage: Usage, *, first_wait_s: float = 1.0) -> None:
        """Raises: ConfigError if the key's variable is not set, or the environment's proxy cannot be used."""
        self.usage = usage
        self._settings, self._first_wait_s = settings, first_wait_s
        url = f"{str(settings.url).rstrip('/')}/chat/completions"
        self._endpoint = Endpoint(url, settings.key_env, "judge.vlm's", "that judges, and on the driver's")
        self._form = Form()  # the last that was answered
        self._gives_logprobs: bool | None = None  # not known until the first answer
        self._lock = threading.Lock()
        self._failed_in_a_row = 0

    def ask(self, asked: Sequence[Asked]) -> Iterator[Verdict]:
        """As Vlm says."""
        pool = ThreadPoolExecutor(max_workers=self._settings.parallel)
        images = {id(one.image): one.image for one in asked}
        try:
            # Each image is encoded once for all its questions; these are queued behind it, so that none waits for ever.
            urls = {key: pool.submit(data_url, image) for key, image in images.items()}
            yield from pool.map(lambda one: self._verdict(one.question, urls[id(one.image)].result()), asked)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the other questions need not be asked

    def tell(self, instruction: str, prompt: str) -> str:
        """As Vlm says."""
        messages = [{"role": "user", "content": f"{instruction}\nDescription: {prompt}"}]
        try:
            return self._reply(messages, max(self._settings.max_tokens, ATOM_TOKENS)).text
        except _FailedError as error:
            raise UnansweredError(str(error)) from error

    def _verdict(self, question: str, url: str) -> Verdict:
        try:
            return self._read(question, {"type": "image_url", "image_url": {"url": url}})
        except UnansweredError as error:
            return Verdict(p_yes=None, how="refused", text=str(error))
        except _FailedError as error:
            return Verdict(p_yes=None, how="failed", text=str(error))

    def _read(self, question: str, picture: Mapping[str, Any]) -> Verdict:
        reply = None
        for _ in range(NUM_READINGS):
            if self._gives_logprobs is not False:
                reply = self._reply(_about(picture, YES_OR_NO.format(question=question)), has_logprobs=True)
                if reply.tokens is not None:
                    self._gives_logprobs = True
                    if (p := p_yes(reply.tokens)) is not None:
                        return _verdict(reply, p, "logprobs")
                    continue
                if self._gives_logprobs is None:
                    log.warning("%s gives no log-probabilities: answers are numbers from 1 to 5", self._endpoint.url)
                    self._gives_logprobs = False
            reply = self._reply(_about(picture, ON_A_SCALE.format(question=question)))
            if not reply.is_cut and (p := p_on_scale(reply.text)) is not None:
                return _verdict(reply, p, "scale")
        assert reply is not None
        if reply.is_cut:
            why = f"was cut off after judge.vlm.max_tokens ({self._settings.max_tokens}) tokens"
        else:
            why = "holds neither yes nor no" if self._gives_logprobs else "is no number from 1 to 5"
        return Verdict(p_yes=None, how="unreadable", text=f"the answer {why}: {reply.text[:120]!r}")

    def _reply(self, messages: Sequence[Any], max_tokens: int | None = None, *, has_logprobs: bool = False) -> Reply:
        """Raises: UnansweredError for a refusal, _FailedError after the last retry, JudgeError."""
        settings, reason, response = self._settings, "", None
        for attempt in range(settings.max_retries + 1):
            if attempt:
                time.sleep(retry_wait_s(attempt, self._first_wait_s, response))
            try:
                response = self._response(messages, max_tokens or settings.max_tokens, has_logprobs)
            except TimeoutError:
                reason, response = f"no answer within {settings.timeout_s:g} s", None
                continue
            except httpx.RequestError as error:
                reason, response = self._endpoint.hidden(f"{type(error).__name__} {error}"), None
                continue
            except (httpx.InvalidURL, ValueError) as error:
                raise ConfigError(f"judge.vlm.url is {settings.url!r}, which cannot be opened: {error}") from error
            if is_worth_a_retry(response.status_code):
                reason = f"status {response.status_code}"
                continue
            self._answered()
            said = self._endpoint.hidden(response.text)[:200]
            if response.status_code in ABOUT_THE_PROMPT:
                raise UnansweredError(f"status {response.status_code}: {said}")
            if response.status_code != 200:
                raise JudgeError(f"judge.vlm.url is {settings.url!r}: status {response.status_code}: {said}")
            try:
                return self._parsed(response.json())
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                reason = f"no answer in the OpenAI chat protocol: {said!r}"
        raise self._failure(reason)

    def _response(self, messages: Sequence[Any], max_tokens: int, has_logprobs: bool) -> httpx.Response:
        """The response to the request, put in another form where a refusal names a field that need not be there."""
        form = self._form
        while True:
            body: dict[str, Any] = {"model": self._settings.model, "messages": messages}
            if form.limit:
                body[form.limit] = max_tokens
            if form.has_temperature:
                body["temperature"] = 0
            if has_logprobs and self._gives_logprobs is not False:
                body |= {"logprobs": True, "top_logprobs": NUM_TOP}
            self.usage.begin_request()
            response = self._endpoint.post(body, self._settings.timeout_s)
            if response.status_code not in ABOUT_THE_PROMPT:
                self._form = form
                return response
            said = response.text.lower()
            if "logprobs" in body and "logprob" in said:
                self._gives_logprobs = False
                continue
            other = form.without(response.text) if "image" not in said else None
            if other is None:
                return response
            form = other

    def _parsed(self, tree: Any) -> Reply:
        """Any: JSON. Raises: UnansweredError; LookupError, TypeError or ValueError for another protocol."""
        choice, used = tree["choices"][0], tree.get("usage") or {}
        message, reason = choice["message"], str(choice.get("finish_reason")).lower()
        text, refusal = message.get("content"), message.get("refusal")
        if isinstance(text, list):
            text = "".join(str(part.get("text", "")) for part in text if part.get("type") in ("text", "output_text"))
        counts = int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)
        self.usage.add_tokens(*counts)
        if reason == "content_filter" or (refusal and not text):
            raise UnansweredError(f"refused: {self._endpoint.hidden(str(refusal or reason)[:200])}")
        found = (choice.get("logprobs") or {}).get("content")
        return Reply(
            text=str(text or ""),
            tokens=None if not found else tuple(_token(entry) for entry in found),
            is_cut=reason in CUT_REASONS,
            tokens_in=counts[0],
            tokens_out=counts[1],
        )

    def _answered(self) -> None:
        with self._lock:
            self._failed_in_a_row = 0

    def _failure(self, reason: str) -> Exception:
        settings = self._settings
        tries = f"gave no answer in {settings.max_retries + 1} tries, the last: {reason}"
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row < NUM_FAILED_IN_A_ROW:
                return _FailedError(tries)
        return JudgeError(
            f"judge.vlm.url is {settings.url!r}, which answers no more: it {tries} ({NUM_FAILED_IN_A_ROW} questions in "
            "a row). Start it again, or give another address, and go on with --resume; what was answered is kept"
        )


def data_url(image: NDArray[np.uint8]) -> str:
    """An image [H, W, 3] as a PNG in a data URL."""
    file = io.BytesIO()
    # The fastest compression: the picture travels once and is not kept.
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _about(picture: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    # The image first: an endpoint that keeps prefixes reads it once for all questions about it.
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def _token(entry: Mapping[str, Any]) -> Token:
    choices = {str(other["token"]): float(other["logprob"]) for other in entry.get("top_logprobs") or ()}
    return Token(text=str(entry["token"]), choices={str(entry["token"]): float(entry["logprob"])} | choices)


def _verdict(reply: Reply, p: float, how: str) -> Verdict:
    return Verdict(p_yes=p, how=how, text=reply.text[:120], tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
