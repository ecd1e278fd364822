"""How long a request waits before it is made again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from itercomp_rl.network.endpoint import LONGEST_RETRY_AFTER_S, LONGEST_WAIT_S, is_worth_a_retry, retry_wait_s


def busy(retry_after: str) -> httpx.Response:
    return httpx.Response(429, headers={"Retry-After": retry_after})


def test_waits_grow_twofold_with_half_at_random_up_to_a_limit() -> None:
    for attempt in range(1, 12):
        longest = min(LONGEST_WAIT_S, 2.0 ** (attempt - 1))
        assert all(longest / 2 <= retry_wait_s(attempt, 1.0) <= longest for _ in range(50))


def test_what_the_server_asks_for_is_waited_for_in_seconds_or_to_a_date() -> None:
    assert retry_wait_s(1, 1.0, busy("7")) == 7
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 <= retry_wait_s(1, 1.0, busy(date)) <= 60


def test_a_server_that_asks_for_less_or_far_more_does_not_get_it() -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert retry_wait_s(3, 1.0, busy("0")) >= 2
    assert retry_wait_s(3, 1.0, busy(past)) >= 2
    assert retry_wait_s(1, 1.0, busy("999999")) == LONGEST_RETRY_AFTER_S


@pytest.mark.parametrize("header", ["", "soon", "-5", "1.5e9"])
def test_a_header_that_says_nothing_is_no_header(header: str) -> None:
    assert retry_wait_s(1, 1.0, busy(header)) <= 1


def test_busy_and_failing_servers_are_worth_a_retry_and_refusals_are_not() -> None:
    assert all(map(is_worth_a_retry, (408, 429, 500, 502, 503, 504)))
    assert not any(map(is_worth_a_retry, (200, 400, 401, 403, 404, 413, 422)))
