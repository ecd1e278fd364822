"""How busy each role is: the share of its members that have work, measured where the loop hands the work out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from itercomp_rl.roles import Team
from itercomp_rl.schema import Config

EVERY_S = 5.0


class Meter:
    """Busy shares of roles with a known number of members; `clock` gives seconds."""

    def __init__(self, members: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._members, self._clock = dict(members), clock
        self._under_way = dict.fromkeys(members, 0)
        self._busy_s = dict.fromkeys(members, 0.0)
        self._since = self._counted = clock()

    def begin(self, role: str) -> None:
        """A piece of work was handed to the role."""
        self._count()
        self._under_way[role] += 1

    def end(self, role: str) -> None:
        """A piece of the role's work is over."""
        self._count()
        self._under_way[role] -= 1

    def shares(self) -> dict[str, float]:
        """Busy share of each role since the last call, 0..1; more work than members counts as all of them busy."""
        self._count()
        span = self._counted - self._since
        found = {role: busy / (span * self._members[role]) if span else 0.0 for role, busy in self._busy_s.items()}
        self._since, self._busy_s = self._counted, dict.fromkeys(self._members, 0.0)
        return found

    def _count(self) -> None:
        now = self._clock()
        for role, under_way in self._under_way.items():
            self._busy_s[role] += (now - self._counted) * min(under_way, self._members[role])
        self._counted = now


class Measured:
    """A role of the team; every call through it is counted as work."""

    def __init__(self, inner: Any, role: str, meter: Meter) -> None:  # Any: whatever the role's Protocol says
        self._inner, self._role, self._meter = inner, role, meter

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._inner, method)

        async def counted(*arguments: Any) -> Any:
            self._meter.begin(self._role)
            try:
                return await call(*arguments)
            finally:
                self._meter.end(self._role)

        return counted


def _counting(inner: Any, role: str, meter: Meter) -> Any:  # Any: it has the methods of whatever role it wraps
    return Measured(inner, role, meter)


def members(config: Config) -> dict[str, int]:
    """How many pieces of work each role can have at once."""
    actors = config.actors
    return {
        "sampler": actors.samplers.count,
        "judge": actors.judges.count,
        "reward_learner": min(actors.reward_learners.count, len(config.prompts.aspects)),
        "roller": actors.rollers.count,
        "policy_learner": 1,  # its ranks always work together
    }


@asynccontextmanager
async def measured(
    team: Team, config: Config, record: Callable[[Mapping[str, float]], None], every_s: float = EVERY_S
) -> AsyncIterator[Team]:
    """The team with every call counted; `record` is told `utilisation/<role>` every few seconds and at the end."""
    meter = Meter(members(config))

    def tell() -> None:
        record({f"utilisation/{role}": share for role, share in meter.shares().items()})

    async def watch() -> None:
        while True:
            await asyncio.sleep(every_s)
            tell()

    watching = asyncio.create_task(watch())
    try:
        yield Team(
            sampler=_counting(team.sampler, "sampler", meter),
            judge=_counting(team.judge, "judge", meter),
            reward_learners={
                aspect: _counting(learner, "reward_learner", meter) for aspect, learner in team.reward_learners.items()
            },
            roller=_counting(team.roller, "roller", meter),
            policy_learner=_counting(team.policy_learner, "policy_learner", meter),
        )
    finally:
        watching.cancel()
        tell()
