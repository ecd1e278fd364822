"""The phase of a round in which rollers and the policy learner turn the reward models into a new policy (ReFL)."""

import asyncio
import secrets
from collections.abc import Mapping

from itercomp_rl.errors import DivergedError
from itercomp_rl.items import PolicyOrder, Rollout
from itercomp_rl.loop.boards import RewardBoard
from itercomp_rl.loop.dispatch import again, one_reason
from itercomp_rl.loop.divergence import last_good
from itercomp_rl.loop.probes import RoundProbes
from itercomp_rl.loop.roles import Advance
from itercomp_rl.loop.run import Run
from itercomp_rl.store.kinds import live_policy_role


async def learn_policy(run: Run, board: RewardBoard, round_: int) -> None:
    """One round of feedback learning, begun again from its last checkpoint if the learners die."""
    plan, config = run.plan, run.plan.config.policy
    goes_on = config.start_from == "previous"

    async def learn(probes: RoundProbes) -> None:
        if run.ledger.has_policy(round_):  # published by an attempt of which a rank died right after
            return
        order = PolicyOrder(
            round=round_,
            start_version=round_ - 1 if goes_on and round_ > 0 else None,
            live_role=live_policy_role(secrets.token_hex(4)),  # never the name of an attempt that died half-way
            rewards=board.reports(),
            rankings=plan.rankings(round_),
            pretraining_models=plan.pretraining_models,
            probes=plan.probe_updates,
            total_updates=config.updates * (plan.rounds if goes_on else 1),
            keeps_state=goes_on and round_ + 1 < plan.rounds,
        )
        run.ledger.hold("order", order.rewards)
        await PolicyPhase(run, order, board, probes).learn()

    try:
        with one_reason():
            async with asyncio.TaskGroup() as group:
                probes = RoundProbes(run, board, round_, group)
                await again(plan.config.actors.max_retries, lambda: learn(probes), run.team.policy_learner.restart)
                probes.end()
    except DivergedError as error:
        raise DivergedError(f"round {round_}: {error}. {last_good(plan, round_)}") from error


class PolicyPhase:
    """One attempt at a round: rollers work ahead of the learner by at most max_policy_lag updates; nothing is dropped.

    A rollout starts when one of (lag + 1) * rollouts_per_update slots is free, and slots are freed only after a new
    version is published, so rollout i, used in update i // rollouts_per_update, never lags by more than max_policy_lag.
    """

    def __init__(self, run: Run, order: PolicyOrder, board: RewardBoard, probes: RoundProbes) -> None:
        self._run, self._order, self._board, self._probes = run, order, board, probes
        self._learner, self._per_update = run.team.policy_learner, run.plan.rollouts_per_update
        self._updates = run.plan.config.policy.updates
        self._slots = asyncio.Semaphore((run.plan.config.policy.max_policy_lag + 1) * self._per_update)
        self._rolled: asyncio.Queue[asyncio.Task[Rollout]] = asyncio.Queue()
        self._published = 0  # the newest live version
        self._turn = board.turn  # of the reward models that the learner has

    async def learn(self) -> None:
        """Make the round's updates from where the learner's checkpoint stands, and publish the policy.

        Where probes end the round before its last update, rollouts that wait for another update are dropped.
        """
        with self._run.progress.phase("policy", self._updates, self._order.round) as advance:
            self._published = await self._learner.open(self._order)
            advance(self._published, {})
            self._probes.reached(self._published, advance)
            if not await self._probes.is_over(self._published):
                with one_reason():
                    async with asyncio.TaskGroup() as group:
                        rolling = group.create_task(self._roll_out(group, self._published))
                        group.create_task(self._update_all(self._published, advance, rolling))
            await self._board.finished()
            await self._learner.publish(self._board.reports(), await self._probes.kept())
            for use in ("order", "newest", "taken", *self._probes.holds):
                self._run.ledger.hold(use, self._board.reports())

    async def _roll_out(self, group: asyncio.TaskGroup, done: int) -> None:
        """Order every rollout that is still to be learned from, each as soon as it has a slot."""
        plan, role = self._run.plan, self._order.live_role
        for index in range(done * self._per_update, self._updates * self._per_update):
            await self._slots.acquire()
            order = plan.rollout_order(self._order.round, index, (role, self._published))
            self._rolled.put_nowait(group.create_task(self._run.team.roller.roll(order)))

    async def _update_all(self, done: int, advance: Advance, rolling: asyncio.Task[None]) -> None:
        """Make updates until the last one, or until probes say that the round is over."""
        for number in range(done, self._updates):
            metrics = await self._update(number)
            self._published = number + 1
            advance(1, metrics)
            self._probes.reached(self._published, advance)
            if await self._probes.is_over(self._published):
                break
            for _ in range(self._per_update):
                self._slots.release()
        rolling.cancel()
        while not self._rolled.empty():
            self._rolled.get_nowait().cancel()

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
