"""The team and the progress of a run with a meter around them: the loop does not know that it is measured."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.telemetry import RunMeter, put_again
from itercomp_rl.files.whole import write_whole
from itercomp_rl.items import (
    DrawOrder,
    MeasureOrder,
    PolicyOrder,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)
from itercomp_rl.loop.roles import Advance, Judge, PolicyLearner, Progress, RewardLearner, Roller, Sampler, Team
from itercomp_rl.observability.logs import log_context

STATUS = "status.json"  # in the run folder: what the driver knew a moment ago


def metered(team: Team, meter: RunMeter) -> Team:
    """The same team; every order is counted from when it is given until it is done."""
    return Team(
        sampler=MeteredSampler(team.sampler, meter),
        judge=MeteredJudge(team.judge, meter),
        reward_learners={
            aspect: MeteredRewardLearner(learner, meter) for aspect, learner in team.reward_learners.items()
        },
        roller=MeteredRoller(team.roller, meter),
        policy_learner=MeteredPolicyLearner(team.policy_learner, meter),
    )


class MeteredSampler:
    """Satisfies roles.Sampler."""

    def __init__(self, inner: Sampler, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    async def draw(self, order: DrawOrder) -> None:
        with self._meter.order("sampler"):
            await self._inner.draw(order)

    async def measure(self, order: MeasureOrder) -> None:
        with self._meter.order("sampler"):
            await self._inner.measure(order)

    async def probe(self, order: DrawOrder) -> None:
        with self._meter.order("sampler"):
            await self._inner.probe(order)


class MeteredJudge:
    """Satisfies roles.Judge."""

    def __init__(self, inner: Judge, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    async def rank(self, order: RankOrder) -> None:
        with self._meter.order("judge"):
            await self._inner.rank(order)

    async def grade(self, segment: str) -> None:
        with self._meter.order("judge"):
            await self._inner.grade(segment)


class MeteredRoller:
    """Satisfies roles.Roller."""

    def __init__(self, inner: Roller, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    async def roll(self, order: RolloutOrder) -> Rollout:
        with self._meter.order("roller"):
            return await self._inner.roll(order)


class MeteredRewardLearner:
    """Satisfies roles.RewardLearner."""

    def __init__(self, inner: RewardLearner, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    async def open(self, order: RewardOrder) -> int:
        with self._meter.order("reward_learner"):
            return await self._inner.open(order)

    async def add(self, rankings: tuple[str, ...]) -> None:
        with self._meter.order("reward_learner"):
            await self._inner.add(rankings)

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        with self._meter.order("reward_learner"):
            return await self._inner.advance(num_updates)

    async def publish_live(self, live_role: str) -> RewardReport:
        with self._meter.order("reward_learner"):
            return await self._inner.publish_live(live_role)

    async def checkpoint(self) -> None:
        with self._meter.order("reward_learner"):
            await self._inner.checkpoint()

    async def publish(self) -> RewardReport:
        with self._meter.order("reward_learner"):
            return await self._inner.publish()


class MeteredPolicyLearner:
    """Satisfies roles.PolicyLearner; its ranks work together, so that one order makes all of them busy."""

    def __init__(self, inner: PolicyLearner, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    @contextmanager
    def _order(self) -> Iterator[None]:
        ranks = self._meter.roles["policy_learner"].members
        with self._meter.order("policy_learner", ranks):
            yield

    async def open(self, order: PolicyOrder) -> int:
        with self._order():
            return await self._inner.open(order)

    async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
        with self._order():
            return await self._inner.update(number, rollouts)

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        with self._order():
            await self._inner.take_rewards(rewards)

    async def checkpoint(self) -> None:
        with self._order():
            await self._inner.checkpoint()

    async def publish(self, rewards: Mapping[str, RewardReport]) -> None:
        with self._order():
            await self._inner.publish(rewards)

    async def restart(self) -> None:
        await self._inner.restart()


class MeteredProgress:
    """Satisfies loop.Progress."""

    def __init__(self, inner: Progress, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        done = 0
        with log_context(round=round_, phase=name), self._inner.phase(name, total, round_) as inner:

            def advance(steps: int, metrics: Mapping[str, float]) -> None:
                nonlocal done
                done += steps
                self._meter.advanced(name, done, total, round_, metrics)
                inner(steps, metrics)

            self._meter.advanced(name, 0, total, round_, {})
            yield advance


async def keep_status(meter: RunMeter, folder: Path, every_s: float = 2.0) -> None:
    """Write status.json again and again, whole each time, until cancelled."""
    while True:
        with suppress(OSError):  # a disk full for a while: the run itself says so
            write_status(meter.tree(), folder)
        put_again()
        await asyncio.sleep(every_s)


async def keep_utilisation(
    meter: RunMeter, record: Callable[[Mapping[str, float]], None], every_s: float = 5.0
) -> None:
    """Tell `record` the metrics `utilisation/<role>` again and again until cancelled, and once more then."""

    def tell() -> None:
        record({f"utilisation/{role}": share for role, share in meter.shares().items()})

    try:
        while True:
            await asyncio.sleep(every_s)
            tell()
    finally:
        tell()


def write_status(tree: Mapping[str, Any], folder: Path) -> None:
    """Write status.json, whole."""
    write_whole(folder / STATUS, json.dumps(tree) + "\n")
