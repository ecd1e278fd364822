"""A language model behind an endpoint of the OpenAI chat protocol; its key comes from the environment alone."""

import json
import logging
import re
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import httpx

from itercomp_rl.config.schema import PlannerConfig
from itercomp_rl.errors import ConfigError, PlannerError
from itercomp_rl.gallery.planning.answer import CUT_REASONS, cut_off
from itercomp_rl.network.endpoint import Endpoint, is_worth_a_retry, retry_wait_s

log = logging.getLogger(__name__)

ABOUT_THE_PROMPT = (400, 413, 422)  # statuses of a filter or a limit of length: other prompts may do
NUM_FIRST_REFUSALS = 3  # so many prompts refused for one reason, and none answered, are no chance

_TOO_LONG = re.compile(
    r"context.(?:length|window|size)|too (?:large|long|high|big|many)|at most|exceed|less than|maximum allowed"
)
_SYSTEM_ROLE = re.compile(
    r"system.{0,40}(?:role|message|prompt|instruction)|role.{0,80}system|developer instruction|roles must alternate",
    re.DOTALL,
)
CONTENT_FILTER = re.compile(r"content.?(?:filter|policy|management)|moderation|responsible.?ai|safety", re.IGNORECASE)


def general_reason(refusal: str, prompt: str) -> str:
    """The text of a refusal without the prompt and without numbers, which differ from one request to the next."""
    for quoted in (prompt, json.dumps(prompt)[1:-1]):
        refusal = refusal.replace(quoted, "")
    return re.sub(r"[\w-]*\d[\w-]*", "#", refusal)


class PromptRefusedError(PlannerError):
    """An endpoint refuses one prompt; it may well answer others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a request is put: servers differ in the fields that they take. Form(limit="max_completion_tokens")."""

    limit: str | None = "max_tokens"  # the field that limits the answer; None: it is left out
    has_temperature: bool = True
    has_system_role: bool = True  # else the user's message begins with the instruction

    def body(self, settings: PlannerConfig, instruction: str, prompt: str) -> dict[str, Any]:
        """The JSON of a request."""
        if self.has_system_role:
            messages = [{"role": "system", "content": instruction}, {"role": "user", "content": prompt}]
        else:
            messages = [{"role": "user", "content": f"{instruction}\n{prompt}"}]
        body: dict[str, Any] = {"model": settings.model, "messages": messages}
        if self.limit:
            body[self.limit] = settings.max_tokens
        if self.has_temperature:
            body["temperature"] = 0
        return body

    def without(self, refusal: str) -> "Form | None":
        """The form without what a refusal names, or None if it names nothing that could be left out."""
        said = refusal.lower()
        is_too_long = _TOO_LONG.search(said) is not None
        if self.limit and (is_too_long or "max_tokens" in said or "max_completion_tokens" in said):
            has_other_name = "max_completion_tokens" in said or "unsupported_parameter" in said
            if self.limit == "max_tokens" and has_other_name and not is_too_long:
                return replace(self, limit="max_completion_tokens")
            return replace(self, limit=None)
        if self.has_temperature and "temperature" in said:
            return replace(self, has_temperature=False)
        if self.has_system_role and _SYSTEM_ROLE.search(said):
            return replace(self, has_system_role=False)
        return None


class EndpointChat:
    """Asks `url`/chat/completions; tries again, ever later, where that can help. Satisfies planners.Chat."""

    num_parallel: int = 4

    def __init__(self, settings: PlannerConfig, *, first_wait_s: float = 1.0) -> None:
        """Raises: ConfigError if the variable that must hold the key is not set, or holds what is no key.

        Also if the proxy that the environment names for the endpoint cannot be used.
        """
        self._settings, self._first_wait_s = settings, first_wait_s
        self._url = f"{str(settings.url).rstrip('/')}/chat/completions"
        self._endpoint = Endpoint(self._url, settings.key_env, "a planner's", "that samples")
        self._form = Form()  # the last that was answered
        self._lock = threading.Lock()
        self._refusals: dict[str, str] | None = {}  # prompt -> reason, until the first answer
        self._misconfigured: ConfigError | None = None

    def answer(self, instruction: str, prompt: str) -> str:
        """As planners.Chat says.

        Raises also: ConfigError if the first prompts are all refused for one reason, which is then no prompt's.
        """
        if self._misconfigured:
            raise self._misconfigured
        reason, response = "", None
        for attempt in range(self._settings.max_retries + 1):
            if attempt:
                time.sleep(retry_wait_s(attempt, self._first_wait_s, response))
            said, reason, response = self._try(instruction, prompt)
            if said is not None:
                return said
        raise PlannerError(
            f"{self._settings.url} gave no answer in {self._settings.max_retries + 1} tries, the last: {reason}"
        )

    def _try(self, instruction: str, prompt: str) -> tuple[str | None, str, httpx.Response | None]:
        """The answer, or None, why there may be one later, and the response that says when.

        Raises: PlannerError if another try cannot help, PromptRefusedError where the prompt is the likely reason,
        PlanError if the answer was cut off, ConfigError if the request as such is refused.
        """
        settings = self._settings
        try:
            response = self._response(instruction, prompt)
        except TimeoutError:
            return None, f"no answer within {settings.timeout_s:g} s", None
        except httpx.RequestError as error:
            return None, self._endpoint.hidden(f"{type(error).__name__} {error}"), None
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"a planner's url is {settings.url!r}, which cannot be opened: {error}") from error
        if is_worth_a_retry(response.status_code):
            return None, f"status {response.status_code}", response
        if response.status_code in ABOUT_THE_PROMPT:
            raise self._refusal(prompt, response)
        if response.status_code != 200:
            raise PlannerError(
                f"{self._url} refused with status {response.status_code}: {self._endpoint.hidden(response.text)[:200]}"
            )
        self._refusals = None
        try:
            choice = response.json()["choices"][0]
            reason, content = choice.get("finish_reason"), choice["message"]["content"]
            refusal = choice["message"].get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise PlannerError(
                f"{self._url} did not answer in the OpenAI chat protocol: "
                f"{self._endpoint.hidden(response.text)[:200]!r}"
            ) from error
        if str(reason).lower() in CUT_REASONS:
            raise cut_off(settings.max_tokens)
        if reason == "content_filter" or (refusal and not content):
            raise PromptRefusedError(
                f"{self._url} refused the prompt: {self._endpoint.hidden(str(refusal or reason))[:200]}"
            )
        return self._text(content), "", None

    def _response(self, instruction: str, prompt: str) -> httpx.Response:
        """The response to the request, put in another form where a refusal names a field that need not be there."""
        form = self._form
        while True:
            body = form.body(self._settings, instruction, prompt)
            response = self._endpoint.post(body, self._settings.timeout_s)
            other = form.without(response.text) if response.status_code in ABOUT_THE_PROMPT else None
            if other is None:
                break
            form = other
        if response.status_code == 200 and form != self._form:
            log.warning("%s does not take every field; requests now have the form %s", self._url, form)
            self._form = form
        return response

    def _refusal(self, prompt: str, response: httpx.Response) -> PlannerError | ConfigError:
        """The error for a refused prompt; for a refused request, if all prompts so far were refused for one reason."""
        said = self._endpoint.hidden(response.text)[:200]
        with self._lock:
            if self._misconfigured:
                return self._misconfigured
            if self._refusals is not None and not CONTENT_FILTER.search(response.text):
                self._refusals[prompt] = general_reason(response.text, prompt)
                if len(self._refusals) >= NUM_FIRST_REFUSALS and len(set(self._refusals.values())) == 1:
                    self._misconfigured = ConfigError(
                        f"a planner's url is {self._settings.url!r} and its model {self._settings.model!r}: the first "
                        f"{len(self._refusals)} prompts were all refused with status {response.status_code} and one "
                        f"reason, which is then no prompt's: {said}; change the planner's settings, or its kind to rule"
                    )
                    return self._misconfigured
        return PromptRefusedError(f"{self._url} refused with status {response.status_code}: {said}")

    def _text(self, content: object) -> str:
        """The text of a message, whole or in parts; parts that hold thinking are left out."""
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
            content = "".join(str(part.get("text", "")) for part in parts) if parts else content
        if not isinstance(content, str):
            raise PlannerError(f"{self._url} answered with {type(content).__name__} where text was expected")
        return content
