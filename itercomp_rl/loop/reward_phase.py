"""The phase of a round in which every aspect's reward model learns the round's pairs."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from itercomp_rl.items import RewardOrder, RewardReport
from itercomp_rl.loop.boards import Arrivals, RewardBoard
from itercomp_rl.loop.dispatch import again, together
from itercomp_rl.loop.divergence import trusted
from itercomp_rl.loop.roles import Advance
from itercomp_rl.loop.run import Run
from itercomp_rl.store.kinds import live_reward_role

REWARD_SLICE = 10  # updates asked of a reward learner at a time, so that progress is seen


async def learn_rewards(run: Run, board: RewardBoard, round_: int, ranked: Arrivals) -> None:
    """Every aspect's reward model learns the round's pairs; untrusted ones stop the run or get weight 0, by config."""
    config, learners = run.plan.config, run.team.reward_learners
    with run.progress.phase("rewards", config.reward.updates * len(learners), round_) as advance:

        async def learn(aspect: str) -> None:
            attempt = RewardPhase(run=run, board=board, ranked=ranked, advance=advance, aspect=aspect, round=round_)
            report = await again(config.actors.max_retries, attempt.learn)
            board.put(trusted(report, config.reward.min_accuracy, config.reward.on_bad_reward))

        await together(learn(aspect) for aspect in learners)


@dataclass(frozen=True, kw_only=True)
class RewardPhase:
    """One aspect's learning in one round."""

    run: Run
    board: RewardBoard
    ranked: Arrivals
    advance: Advance
    aspect: str
    round: int

    async def learn(self) -> RewardReport:
        """The report of the published model; one that an earlier attempt published is taken as it is."""
        version = self.run.plan.reward_version(self.round)
        if report := self.run.ledger.reward_report(self.aspect, version):
            return report
        order = RewardOrder(
            aspect=self.aspect,
            round=self.round,
            version=version,
            start_version=version - 1 if version > 0 else None,
            rankings=self.ranked.there(),
        )
        return await self._learn(order)

    async def _learn(self, order: RewardOrder) -> RewardReport:
        """Learn in slices, from more pairs as they arrive, and publish early versions on the way.

        Updates are spread over the rankings that are still to come: before update k of n, at least the share k / n of
        them must be there.
        """
        learner, updates = self.run.team.reward_learners[self.aspect], self.run.plan.config.reward.updates
        stops, live_role = self.run.plan.reward_stops, live_reward_role(self.aspect, secrets.token_hex(4))
        seen = set(order.rankings)
        done = await learner.open(order)
        self.advance(done, {})
        while done < updates:
            num = min(REWARD_SLICE, *(stop - done for stop in stops if stop > done))
            await self.ranked.reach_share(done + num, updates)
            await self._add_new(seen)
            metrics = await learner.advance(num)
            done += num
            self._report(num, metrics)
            if done in stops and done < updates:
                self._hand_over(await learner.publish_live(live_role))
        await self.ranked.complete()
        await self._add_new(seen)
        report = await learner.publish()
        self._report(0, {"held_out_accuracy": report.accuracy})
        return report

    async def _add_new(self, seen: set[str]) -> None:
        """Give the learner the rankings that arrived since the last time."""
        if new := tuple(id_ for id_ in self.ranked.there() if id_ not in seen):
            await self.run.team.reward_learners[self.aspect].add(new)
            seen.update(new)

    def _hand_over(self, early: RewardReport) -> None:
        """Give the policy a model that still learns, if it is good enough to learn from."""
        self._report(0, {"early_accuracy": early.accuracy})
        if early.accuracy >= self.run.plan.config.reward.min_accuracy:
            self.run.ledger.hold("newest", {self.aspect: early})
            self.board.put(early)

    def _report(self, steps: int, metrics: Mapping[str, float]) -> None:
        self.advance(steps, {f"reward/{self.aspect}_{name}": value for name, value in metrics.items()})
