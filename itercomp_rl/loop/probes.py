"""Probes of a round: its moving average draws validation prompts and is graded, beside the learning.

Samplers and judges, which are idle while the policy learns, do both; the learner publishes the average and goes on.
What follows from the scores is decided at fixed updates and from all scores that count there, so that no result depends
on how fast a probe was graded (docs/decisions/0038).
"""

import asyncio
from collections.abc import Mapping

from itercomp_rl.items import DrawOrder, ProbeOrder, RewardReport
from itercomp_rl.loop.boards import RewardBoard
from itercomp_rl.loop.dispatch import together
from itercomp_rl.loop.roles import Advance
from itercomp_rl.loop.run import Run
from itercomp_rl.store.kinds import PROBE_GRADES


def best_update(scores: Mapping[int, float]) -> int:
    """The update whose probe has the highest score; of equal ones the first, which learned less to get there."""
    return max(sorted(scores), key=scores.__getitem__)


def is_patience_over(scores: Mapping[int, float], patience: int) -> bool:
    """Whether the last `patience` probes brought no new best."""
    updates = sorted(scores)
    return len(updates) - 1 - updates.index(best_update(scores)) >= patience


class RoundProbes:
    """The probes of one round, each ordered once, however often the learners are begun again meanwhile."""

    def __init__(self, run: Run, board: RewardBoard, round_: int, group: asyncio.TaskGroup) -> None:
        """group: the tasks of the probes belong to it; one that fails ends the round."""
        self._run, self._board, self._round = run, board, round_
        self._reached = {update: asyncio.Event() for update in run.plan.probe_updates}
        self._scores: dict[int, asyncio.Task[float]] = {}
        for update in self._reached:
            self._scores[update] = group.create_task(self._probe(update, max(self._scores, default=None)))
        self._advance: Advance | None = None
        self.holds: set[str] = set()  # uses under which the ledger holds reward models that still learn

    def reached(self, update: int, advance: Advance) -> None:
        """Begin every probe up to the update at which the learner stands; `advance` reports their values."""
        self._advance = advance
        for due, reached in self._reached.items():
            if due <= update:
                reached.set()

    def end(self) -> None:
        """The round is over: a probe that was not begun never will be."""
        for due, reached in self._reached.items():
            if not reached.is_set():
                self._scores[due].cancel()

    async def is_over(self, update: int) -> bool:
        """Whether the round ends at this update, as `policy.patience` says.

        It is looked at where a probe begins, from the probes before it: these had the time between two probes to be
        graded, and the learner seldom waits.
        """
        patience = self._run.plan.config.policy.patience
        if patience is None or not update or update not in self._reached:
            return False
        return is_patience_over(await self._scores_up_to(update - 1), patience)

    async def kept(self) -> int | None:
        """The update whose moving average the round publishes, once all probes are graded; None: the last one's.

        Waiting costs little: the evaluation that comes next is drawn and graded by the same members.
        """
        begun = [due for due, reached in self._reached.items() if reached.is_set()]
        scores = await self._scores_up_to(max(begun, default=0))
        return best_update(scores) if self._run.plan.config.evaluation.keep == "best" else None

    async def _scores_up_to(self, update: int) -> dict[int, float]:
        # Shielded, for a probe goes on where whoever waits for it ends: a learner's death ends no probe.
        return {due: await asyncio.shield(score) for due, score in self._scores.items() if due <= update}

    async def _probe(self, update: int, before: int | None) -> float:
        """Once its update is reached, draw and grade a probe, and report it after those before; returns its score."""
        await self._reached[update].wait()
        run = self._run
        orders = run.plan.probe_orders(self._round, update)
        is_new = not all(run.ledger.has(PROBE_GRADES, order.id) for order in orders)
        rewards = {aspect: report for aspect, report in self._board.reports().items() if report.weight > 0}
        if any(report.live_role for report in rewards.values()):
            use = f"probe-{update}"
            self.holds.add(use)
            run.ledger.hold(use, rewards)
        await together(self._grade(order, update, rewards) for order in orders)
        if before is not None:
            await asyncio.shield(self._scores[before])
        values = run.ledger.probe_values(self._round, update)
        if is_new and self._advance:
            self._advance(0, {f"probe/{name}": value for name, value in values.items()})
        return values["score"]

    async def _grade(self, order: DrawOrder, update: int, rewards: Mapping[str, RewardReport]) -> None:
        run = self._run
        graded = ProbeOrder(
            id=order.id,
            round=self._round,
            update=update,
            rewards=rewards,
            reference=run.ledger.reference_rewards(self._round),
        )
        await run.orders.once(order.kind, order.id, lambda: run.drawing.draw(order))
        await run.orders.once(PROBE_GRADES, order.id, lambda: run.team.judge.grade_probe(graded))
