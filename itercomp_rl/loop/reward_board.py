"""What the policy learns by now: the newest trusted report of each aspect, renewed while the reward models learn on."""

import asyncio
from collections.abc import Iterable

from itercomp_rl.items import RewardReport


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
