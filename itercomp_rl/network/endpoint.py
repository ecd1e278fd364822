"""Requests to an endpoint that speaks a JSON protocol: a POST within a limit of time, and when to try again.

The key comes from the environment alone, and no message of ours repeats it.
"""

import asyncio
import os
import random
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx

from itercomp_rl.errors import ConfigError
from itercomp_rl.network.proxies import proxy_of

LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0  # a server that asks for more is waited for no longer than this

_STATUSES_TO_RETRY = (408, 409, 425, 429)


class Endpoint:
    """One URL that JSON is posted to, with its key and its proxy."""

    def __init__(self, url: str, key_env: str | None, owner: str, where: str) -> None:
        """owner: whose key it is, as errors name it ("a planner's"). where: machines that need it ("that samples").

        Raises: ConfigError if the variable that must hold the key is not set, or holds what is no key; also if the
        proxy that the environment names for the endpoint cannot be used.
        """
        self.url, self._proxy = url, proxy_of(url)
        self._key = os.environ.get(key_env, "").strip() if key_env else ""
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"{owner} key_env is {key_env!r}, and that environment variable holds characters that no "
                "HTTP header takes: set it to the key alone"
            )
        if key_env and not self._key:
            raise ConfigError(
                f"{owner} key_env is {key_env!r}, and that environment variable is not set here: set it "
                f"on every machine {where}, or set key_env to null for an endpoint without a key"
            )

    def post(self, body: Mapping[str, Any], timeout_s: float) -> httpx.Response:
        """The whole answer to `body`.

        Raises: TimeoutError after `timeout_s` in all, httpx.RequestError, httpx.InvalidURL or ValueError.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return asyncio.run(_post(self.url, body, headers, timeout_s, self._proxy))

    def hidden(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "***") if self._key else text


def is_worth_a_retry(status: int) -> bool:
    """Whether the same request may be answered later: the server is busy, or failed."""
    return status in _STATUSES_TO_RETRY or status >= 500


def retry_wait_s(attempt: int, first_wait_s: float, response: httpx.Response | None = None) -> float:
    """Seconds to wait before try `attempt` (1 = the first repetition): what the server asked for, else ever longer.

    Half of the own wait is random, so that many processes do not come back at once. A Retry-After header counts in
    seconds or as a date.
    """
    longest = min(LONGEST_WAIT_S, first_wait_s * 2 ** (attempt - 1))
    own = longest * (0.5 + 0.5 * random.random())
    asked = _retry_after_s(response.headers.get("Retry-After", "")) if response is not None else None
    return own if asked is None else min(LONGEST_RETRY_AFTER_S, max(own, asked))


def _retry_after_s(value: str) -> float | None:
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()


@cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()


async def _post(
    url: str, body: Mapping[str, Any], headers: dict[str, str], timeout_s: float, proxy: str | None
) -> httpx.Response:
    """The whole answer. Raises: TimeoutError after so long in all: httpx's own limits begin anew with every byte."""
    # A transport of our own: httpx would open every proxy of the environment, also those that do not serve this URL.
    transport = httpx.AsyncHTTPTransport(proxy=proxy, verify=_tls())
    async with httpx.AsyncClient(transport=transport, timeout=timeout_s) as client, asyncio.timeout(timeout_s):
        return await client.post(url, json=body, headers=headers)
