"""The loop of a run: gallery -> rankings -> rewards -> policy, round after round, in plain asyncio.

Each piece of work has a fixed id and leaves a commit in the store. A piece whose commit is there is not ordered again:
that is all there is to resuming. One failure cancels everything and ends the run with its reason.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from itercomp_rl.errors import DivergedError, WorkerDiedError
from itercomp_rl.items import ModelRef, PolicyOrder, RewardOrder, RewardReport, Rollout
from itercomp_rl.plan import Plan
from itercomp_rl.roles import RewardLearner, Team

log = logging.getLogger(__name__)

T = TypeVar("T")
Advance = Callable[[int, Mapping[str, float]], None]  # steps done now, metrics

REWARD_SLICE = 10  # updates asked of a reward learner at a time, so that progress is seen


class Ledger(Protocol):
    """What the loop reads from the store to know what is done."""

    def has(self, kind: str, id_: str) -> bool:
        """Whether a piece of work is committed."""
        ...

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        """The report published with a reward model, if it is published."""
        ...

    def has_policy(self, version: int) -> bool:
        """Whether a round's policy is published."""
        ...


class Progress(Protocol):
    """Who is told how far a phase is."""

    def phase(self, name: str, total: int, round_: int) -> AbstractContextManager[Advance]:
        """Open a phase of `total` steps."""
        ...


async def run_rounds(plan: Plan, team: Team, ledger: Ledger, progress: Progress) -> None:
    """The whole run; returns when every round's policy is published and evaluated."""
    await evaluate(plan, team, ledger, progress, [plan.policy(-1), *plan.founders(0)], 0)
    for round_ in range(plan.rounds):
        await fill_gallery(plan, team, ledger, progress, round_)
        rewards = await learn_rewards(plan, team, ledger, progress, round_)
        if not ledger.has_policy(round_):
            await learn_policy(plan, team, rewards, progress, round_)
        joined = plan.founders(round_) if round_ else []
        await evaluate(plan, team, ledger, progress, [*joined, plan.policy(round_)], round_)


async def fill_gallery(plan: Plan, team: Team, ledger: Ledger, progress: Progress, round_: int) -> None:
    """The round's newcomers draw every gallery prompt; a segment is ranked as soon as its images are there."""
    segments = range(len(plan.segments()))
    with progress.phase("gallery", len(segments) * (len(plan.newcomers(round_)) + 1), round_) as advance:

        async def fill(segment: int) -> None:
            orders = list(plan.draw_orders(round_, segment))
            await together(
                once(ledger, "images", order.id, lambda o=order: team.sampler.draw(o), advance) for order in orders
            )
            order = plan.rank_order(round_, segment)
            await once(ledger, "rankings", order.id, lambda: team.judge.rank(order), advance)

        await together(fill(segment) for segment in segments)


async def learn_rewards(
    plan: Plan, team: Team, ledger: Ledger, progress: Progress, round_: int
) -> dict[str, RewardReport]:
    """Every aspect's reward model learns the round's pairs; untrusted ones stop the run or get weight 0, by config."""
    config = plan.config.reward
    version = plan.reward_version(round_)
    with progress.phase("rewards", config.updates * len(team.reward_learners), round_) as advance:

        async def learn(aspect: str) -> RewardReport:
            if report := ledger.reward_report(aspect, version):
                return report
            order = RewardOrder(
                aspect=aspect,
                round=round_,
                version=version,
                start_version=version - 1 if version > 0 else None,
                rankings=plan.rankings(round_),
            )
            return await again(
                plan.config.actors.max_retries,
                lambda: _learn_reward(team.reward_learners[aspect], order, config.updates, advance),
            )

        found = await together(learn(aspect) for aspect in team.reward_learners)
    return {report.aspect: trusted(report, config.min_accuracy, config.on_bad_reward) for report in found}


async def _learn_reward(learner: RewardLearner, order: RewardOrder, updates: int, advance: Advance) -> RewardReport:
    await learner.open(order)
    for done in range(0, updates, REWARD_SLICE):
        num = min(REWARD_SLICE, updates - done)
        metrics = await learner.advance(num)
        advance(num, {f"reward/{order.aspect}_{name}": value for name, value in metrics.items()})
    report = await learner.publish()
    advance(0, {f"reward/{order.aspect}_held_out_accuracy": report.accuracy})
    return report


def trusted(report: RewardReport, min_accuracy: float, on_bad_reward: str) -> RewardReport:
    """The report, with weight 0 if its accuracy is too low and the config says to drop such an aspect.

    Raises: DivergedError if the config says to stop instead.
    """
    if report.accuracy >= min_accuracy or report.weight == 0:
        return report
    what = (
        f"the {report.aspect} reward model is right on {report.accuracy:.0%} of {report.num_pairs} held-out pairs, "
        f"reward.min_accuracy is {min_accuracy:.0%}"
    )
    if on_bad_reward == "stop":
        raise DivergedError(
            f"{what}: a reward no better than chance ruins a policy. Give it more pairs (prompts.gallery), more "
            "updates (reward.updates) or a better trunk (reward.trunk), or set reward.on_bad_reward=drop to "
            "go on without it"
        )
    log.warning("%s; this round goes on without it", what)
    return replace(report, weight=0.0)


async def learn_policy(
    plan: Plan, team: Team, rewards: Mapping[str, RewardReport], progress: Progress, round_: int
) -> None:
    """One round of feedback learning, begun again from its last checkpoint if the learners die."""
    start_version = round_ - 1 if round_ > 0 and plan.config.policy.start_from == "previous" else None

    async def learn() -> None:
        order = PolicyOrder(
            round=round_,
            start_version=start_version,
            live_role=f"live-{secrets.token_hex(4)}",  # never the name of an attempt that died half-way
            rewards=rewards,
            rankings=plan.rankings(round_),
        )
        await _learn_policy(plan, team, order, progress)

    await again(plan.config.actors.max_retries, learn, team.policy_learner.restart)


async def _learn_policy(plan: Plan, team: Team, order: PolicyOrder, progress: Progress) -> None:
    """Rollers work ahead of the learner by at most max_policy_lag updates; nothing is dropped.

    A rollout starts when one of (lag + 1) * rollouts_per_update slots is free, and slots are freed only after a new
    version is published, so rollout i, used in update i // rollouts_per_update, never lags by more than max_policy_lag.
    """
    config, per_update = plan.config.policy, plan.rollouts_per_update
    with progress.phase("policy", config.updates, order.round) as advance:
        done = published = await team.policy_learner.open(order)
        advance(done, {})
        slots = asyncio.Semaphore((config.max_policy_lag + 1) * per_update)
        rolled: asyncio.Queue[asyncio.Task[Rollout]] = asyncio.Queue()

        async def roll_out(group: asyncio.TaskGroup) -> None:
            for index in range(done * per_update, config.updates * per_update):
                await slots.acquire()
                rollout_order = plan.rollout_order(order.round, index, (order.live_role, published))
                rolled.put_nowait(group.create_task(team.roller.roll(rollout_order)))

        async def learn() -> None:
            nonlocal published
            for number in range(done, config.updates):
                rollouts = [await (await rolled.get()) for _ in range(per_update)]
                metrics = await team.policy_learner.update(number, rollouts)
                published = number + 1
                for _ in range(per_update):
                    slots.release()
                lag = number - min(rollout.version for rollout in rollouts)
                advance(1, {**{f"policy/{name}": value for name, value in metrics.items()}, "policy/lag_updates": lag})

        with one_reason():
            async with asyncio.TaskGroup() as group:
                group.create_task(roll_out(group))
                group.create_task(learn())
        await team.policy_learner.publish()


async def evaluate(
    plan: Plan, team: Team, ledger: Ledger, progress: Progress, models: list[ModelRef], round_: int
) -> None:
    """Models draw the held-out prompts (and seen ones, if configured), all with the same seeds, and are graded.

    Then the policies among them are measured by their denoising loss on held-out pictures.
    """
    orders = [
        order for model in models for split in ("test", "train") for order in plan.evaluation_orders(model, split)
    ]
    measures = [order for model in models for order in plan.measure_orders(model)]
    with progress.phase("evaluation", len(orders) + len(measures), round_) as advance:

        async def grade(number: int) -> None:
            order = orders[number]
            await once(ledger, "evaluations", order.id, lambda: team.sampler.draw(order))
            await once(ledger, "grades", order.id, lambda: team.judge.grade(order.id), advance)

        await together(grade(number) for number in range(len(orders)))
        await together(
            once(ledger, "losses", order.id, lambda o=order: team.sampler.measure(o), advance) for order in measures
        )


async def once(
    ledger: Ledger,
    kind: str,
    id_: str,
    work: Callable[[], Awaitable[None]],
    advance: Advance | None = None,
) -> None:
    """Do the work unless its commit is in the store."""
    if not ledger.has(kind, id_):
        await work()
    if advance:
        advance(1, {})


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it at once, results in order; the first failure cancels the rest and is raised as itself."""
    with one_reason():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    return [task.result() for task in tasks]


async def again(
    max_retries: int, work: Callable[[], Awaitable[T]], restart: Callable[[], Awaitable[None]] | None = None
) -> T:
    """Work that is begun anew if a process that held it died, at most `max_retries` times."""
    for attempt in range(max_retries):
        try:
            return await work()
        except WorkerDiedError as error:
            log.warning("%s; trying again, %d of %d", error, attempt + 1, max_retries)
            await asyncio.sleep(min(30.0, 2.0**attempt))
        if restart:
            await restart()
    return await work()


@contextmanager
def one_reason() -> Iterator[None]:
    """Raises the first failure of a task group in place of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        reason: BaseException = group
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        raise reason from None
