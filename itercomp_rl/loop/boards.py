"""Boards that one part of the loop fills and another waits on: rankings for the rewards, rewards for the policy."""

import asyncio
import math
from collections.abc import Iterable, Sequence

from itercomp_rl.items import RewardReport


class Arrivals:
    """The rankings of one round that are committed so far; reward learners wait for a number or a share of them."""

    def __init__(self, expected: Sequence[str]) -> None:
        self._expected = tuple(expected)
        self._there: set[str] = set()
        self._came = asyncio.Condition()

    async def put(self, id_: str) -> None:
        """This ranking is committed."""
        async with self._came:
            self._there.add(id_)
            self._came.notify_all()

    def there(self) -> tuple[str, ...]:
        """Those that are committed, in the order of the plan."""
        return tuple(id_ for id_ in self._expected if id_ in self._there)

    async def reach(self, num: int) -> None:
        """Return once so many are there."""
        async with self._came:
            await self._came.wait_for(lambda: len(self._there) >= num)

    async def reach_share(self, part: int, whole: int) -> None:
        """Return once at least part / whole of all are there."""
        await self.reach(math.ceil(len(self._expected) * part / whole))

    async def complete(self) -> None:
        """Return once all are there."""
        await self.reach(len(self._expected))


class RewardBoard:
    """Reward learners put reports here; the policy's loop waits for one of each aspect and then takes what is newer."""

    def __init__(self, aspects: Iterable[str]) -> None:
        self._reports: dict[str, RewardReport | None] = dict.fromkeys(aspects)
        self._is_complete, self._is_finished = asyncio.Event(), asyncio.Event()
        self.turn = 0  # how often a report came

    def put(self, report: RewardReport) -> None:
        """From now on this is the aspect's reward model."""
        self._reports[report.aspect] = report
        self.turn += 1
        if None not in self._reports.values():
            self._is_complete.set()
            if all(report.live_role is None for report in self.reports().values()):
                self._is_finished.set()

    async def complete(self) -> None:
        """Return once every aspect has a report."""
        await self._is_complete.wait()

    async def finished(self) -> None:
        """Return once every aspect's model has learned all it will this round."""
        await self._is_finished.wait()

    def reports(self) -> dict[str, RewardReport]:
        """By aspect, in a fixed order."""
        return {aspect: report for aspect, report in self._reports.items() if report is not None}
