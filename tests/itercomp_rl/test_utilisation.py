"""Busy shares: hand-worked intervals, and a bound."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.config import load_config
from itercomp_rl.roles import Team
from itercomp_rl.utilisation import Meter, measured


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_hand_worked_shares() -> None:
    clock = Clock()
    meter = Meter({"sampler": 2, "judge": 1}, clock)
    meter.begin("sampler")  # one of two samplers from 0 to 4, both from 4 to 6
    clock.now = 4
    meter.begin("sampler")
    clock.now = 6
    meter.end("sampler")
    meter.end("sampler")
    clock.now = 10
    # (4 * 1 + 2 * 2) busy member seconds of 10 * 2.
    assert meter.shares() == {"sampler": 0.4, "judge": 0.0}
    clock.now = 12
    assert meter.shares() == {"sampler": 0.0, "judge": 0.0}


def test_work_that_waits_for_a_member_does_not_make_it_busier_than_busy() -> None:
    clock = Clock()
    meter = Meter({"judge": 1}, clock)
    for _ in range(5):
        meter.begin("judge")
    clock.now = 3
    assert meter.shares() == {"judge": 1.0}


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.floats(0, 10)), max_size=30), st.integers(1, 4))
def test_a_share_is_within_nought_and_one(events: list[tuple[str, float]], num: int) -> None:
    clock = Clock()
    meter, under_way = Meter({"roller": num}, clock), 0
    for event, pause in events:
        clock.now += pause
        if event == "begin":
            meter.begin("roller")
            under_way += 1
        elif under_way:
            meter.end("roller")
            under_way -= 1
    assert -1e-9 <= meter.shares()["roller"] <= 1 + 1e-9


def test_a_measured_team_passes_results_and_errors_on_and_tells_its_shares() -> None:
    async def draw(order: int) -> int:
        await asyncio.sleep(0.05)
        return order + 1

    async def rank(order: int) -> None:
        raise ValueError("no such image")

    team: Any = SimpleNamespace(draw=draw, rank=rank)
    told: list[dict[str, float]] = []

    async def run() -> None:
        whole = Team(sampler=team, judge=team, reward_learners={}, roller=team, policy_learner=team)
        async with measured(whole, load_config("tiny"), lambda metrics: told.append(dict(metrics)), 0.02) as seen:
            sampler: Any = seen.sampler
            assert await sampler.draw(1) == 2
            with pytest.raises(ValueError, match="no such image"):
                await seen.judge.rank(1)  # type: ignore[arg-type]

    asyncio.run(run())
    assert len(told) >= 2
    assert max(metrics["utilisation/sampler"] for metrics in told) == pytest.approx(0.5, abs=0.1)  # one of two
    assert told[-1]["utilisation/judge"] <= 0.1
