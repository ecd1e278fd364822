"""The phase of a round in which rollers and the policy learner turn the reward models into a new policy (ReFL)."""

import asyncio
import secrets
from collections.abc import Mapping

from itercomp_rl.errors import DivergedError
from itercomp_rl.items import PolicyOrder, Rollout
from itercomp_rl.loop.boards import RewardBoard
from itercomp_rl.loop.dispatch import again, one_reason
from itercomp_rl.loop.divergence import last_good
from itercomp_rl.loop.roles import Advance
from itercomp_rl.loop.run import Run
from itercomp_rl.store.kinds import live_policy_role


async def learn_policy(run: Run, board: RewardBoard, round_: int) -> None:
    """One round of feedback learning, begun again from its last checkpoint if the learners die."""
    plan, config = run.plan, run.plan.config.policy
    goes_on = config.start_from == "previous"

    async def learn() -> None:
        if run.ledger.has_policy(round_):  # published by an attempt of which a rank died right after
            return
        order = PolicyOrder(
            round=round_,
            start_version=round_ - 1 if goes_on and round_ > 0 else None,
            live_role=live_policy_role(secrets.token_hex(4)),  # never the name of an attempt that died half-way
            rewards=board.reports(),
            rankings=plan.rankings(round_),
            pretraining_models=plan.pretraining_models,
            total_updates=config.updates * (plan.rounds if goes_on else 1),
            keeps_state=goes_on and round_ + 1 < plan.rounds,
        )
        run.ledger.hold("order", order.rewards)
        await PolicyPhase(run, order, board).learn()

    try:
        await again(plan.config.actors.max_retries, learn, run.team.policy_learner.restart)
    except DivergedError as error:
        raise DivergedError(f"round {round_}: {error}. {last_good(plan, round_)}") from error


class PolicyPhase:
    """One attempt at a round: rollers work ahead of the learner by at most max_policy_lag updates; nothing is dropped.

    A rollout starts when one of (lag + 1) * rollouts_per_update slots is free, and slots are freed only after a new
    version is published, so rollout i, used in update i // rollouts_per_update, never lags by more than max_policy_lag.
    """

    def __init__(self, run: Run, order: PolicyOrder, board: RewardBoard) -> None:
        self._run, self._order, self._board = run, order, board
        self._learner, self._per_update = run.team.policy_learner, run.plan.rollouts_per_update
        self._updates = run.plan.config.policy.updates
        self._slots = asyncio.Semaphore((run.plan.config.policy.max_policy_lag + 1) * self._per_update)
        self._rolled: asyncio.Queue[asyncio.Task[Rollout]] = asyncio.Queue()
        self._published = 0  # the newest live version
        self._turn = board.turn  # of the reward models that the learner has

    async def learn(self) -> None:
        """Make the round's updates from where the learner's checkpoint stands, and publish the policy."""
        with self._run.progress.phase("policy", self._updates, self._order.round) as advance:
            self._published = await self._learner.open(self._order)
            advance(self._published, {})
            with one_reason():
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._roll_out(group, self._published))
                    group.create_task(self._update_all(self._published, advance))
            await self._board.finished()
            await self._learner.publish(self._board.reports())
            for use in ("order", "newest", "taken"):
                self._run.ledger.hold(use, self._board.reports())

    async def _roll_out(self, group: asyncio.TaskGroup, done: int) -> None:
        """Order every rollout that is still to be learned from, each as soon as it has a slot."""
        plan, role = self._run.plan, self._order.live_role
        for index in range(done * self._per_update, self._updates * self._per_update):
            await self._slots.acquire()
            order = plan.rollout_order(self._order.round, index, (role, self._published))
            self._rolled.put_nowait(group.create_task(self._run.team.roller.roll(order)))

    async def _update_all(self, done: int, advance: Advance) -> None:
        for number in range(done, self._updates):
            metrics = await self._update(number)
            self._published = number + 1
            for _ in range(self._per_update):
                self._slots.release()
            advance(1, metrics)

    async def _update(self, number: int) -> Mapping[str, float]:
        """One update from the next rollouts, by the newest reward models; returns metrics by their full names."""
        rollouts = [await (await self._rolled.get()) for _ in range(self._per_update)]
        if self._board.turn != self._turn:
            self._turn, rewards = self._board.turn, self._board.reports()
            self._run.ledger.hold("taken", rewards)
            await self._learner.take_rewards(rewards)
        metrics = await self._learner.update(number, rollouts)
        lag = number - min(rollout.version for rollout in rollouts)
        return {f"policy/{name}": value for name, value in {**metrics, "lag_updates": lag}.items()}
