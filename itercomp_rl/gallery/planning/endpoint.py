"""A language model behind an endpoint of the OpenAI chat protocol; its key comes from the environment alone."""

import asyncio
import os
import random
import time
from typing import Any

import httpx

from itercomp_rl.config.schema import PlannerConfig
from itercomp_rl.errors import ConfigError, PlannerError

LONGEST_WAIT_S = 30.0
ABOUT_THE_PROMPT = (400, 413, 422)  # statuses of a filter or a limit of length: other prompts may do


class PromptRefusedError(PlannerError):
    """An endpoint refuses one prompt; it may well answer others."""


class EndpointChat:
    """Asks `url`/chat/completions; tries again, ever later, where that can help. Satisfies planners.Chat."""

    num_parallel: int = 4

    def __init__(self, settings: PlannerConfig, *, first_wait_s: float = 1.0) -> None:
        """Raises: ConfigError if the variable that must hold the key is not set, or holds what is no key."""
        self._settings, self._first_wait_s = settings, first_wait_s
        self._key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"a planner's key_env is {settings.key_env!r}, and that environment variable holds characters that no "
                "HTTP header takes: set it to the key alone"
            )
        if settings.key_env and not self._key:
            raise ConfigError(
                f"a planner's key_env is {settings.key_env!r}, and that environment variable is not set here: set it "
                "on every machine that samples, or set key_env to null for an endpoint without a key"
            )

    def answer(self, instruction: str, prompt: str) -> str:
        """As planners.Chat says."""
        reason = ""
        for attempt in range(self._settings.max_retries + 1):
            if attempt:
                time.sleep(self._wait_s(attempt))
            said, reason = self._try(instruction, prompt)
            if said is not None:
                return said
        raise PlannerError(
            f"{self._settings.url} gave no answer in {self._settings.max_retries + 1} tries, the last: {reason}"
        )

    def _wait_s(self, attempt: int) -> float:
        """Twice as long every time, half of it random so that many samplers do not come back at once."""
        longest = min(LONGEST_WAIT_S, self._first_wait_s * 2 ** (attempt - 1))
        return longest * (0.5 + 0.5 * random.random())

    def _try(self, instruction: str, prompt: str) -> tuple[str | None, str]:
        """The answer, or None and why there may be one later.

        Raises: PlannerError if another try cannot help, PromptRefusedError where the prompt is the likely reason.
        """
        settings = self._settings
        body = {
            "model": settings.model,
            "max_tokens": settings.max_tokens,
            "temperature": 0,
            "messages": [{"role": "system", "content": instruction}, {"role": "user", "content": prompt}],
        }
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        url = f"{str(settings.url).rstrip('/')}/chat/completions"
        try:
            response = asyncio.run(_post(url, body, headers, settings.timeout_s))
        except TimeoutError:
            return None, f"no answer within {settings.timeout_s:g} s"
        except httpx.RequestError as error:
            return None, self._hidden(f"{type(error).__name__} {error}")
        if response.status_code == 429 or response.status_code >= 500:
            return None, f"status {response.status_code}"
        if response.status_code != 200:
            kind = PromptRefusedError if response.status_code in ABOUT_THE_PROMPT else PlannerError
            raise kind(f"{url} refused with status {response.status_code}: {self._hidden(response.text[:200])}")
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise PlannerError(
                f"{url} did not answer in the OpenAI chat protocol: {self._hidden(response.text[:200])!r}"
            ) from error
        if not isinstance(content, str):
            raise PlannerError(f"{url} answered with {type(content).__name__} where text was expected")
        return content, ""

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def _post(url: str, body: dict[str, Any], headers: dict[str, str], timeout_s: float) -> httpx.Response:
    """The whole answer. Raises: TimeoutError after so long in all: httpx's own limits begin anew with every byte."""
    async with httpx.AsyncClient(timeout=timeout_s) as client, asyncio.timeout(timeout_s):
        return await client.post(url, json=body, headers=headers)
