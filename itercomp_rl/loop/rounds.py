"""The loop of a run: gallery -> rankings -> rewards -> policy, round after round, in plain asyncio.

Each piece of work has a fixed id and leaves a commit in the store. A piece whose commit is there is not ordered again:
that is all there is to resuming. One failure cancels everything and ends the run with its reason.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from itercomp_rl.config.schema import ALL
from itercomp_rl.errors import DivergedError
from itercomp_rl.items import DrawOrder, MeasureOrder, ModelRef, PolicyOrder, RewardOrder, RewardReport, Rollout
from itercomp_rl.loop.boards import Arrivals, RewardBoard
from itercomp_rl.loop.crashing_prompts import Draws
from itercomp_rl.loop.crew import most_at_work
from itercomp_rl.loop.dispatch import Orders, again, one_reason, together
from itercomp_rl.loop.divergence import check_collapse, last_good, trusted
from itercomp_rl.loop.roles import Advance, Ledger, Progress, RewardLearner, Team
from itercomp_rl.plan import Plan
from itercomp_rl.store.kinds import GRADES, LOSSES, RANKINGS, live_policy_role, live_reward_role

REWARD_SLICE = 10  # updates asked of a reward learner at a time, so that progress is seen


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every part of the loop needs."""

    plan: Plan
    team: Team
    ledger: Ledger
    progress: Progress
    orders: Orders
    draws: Draws


async def run_rounds(plan: Plan, team: Team, ledger: Ledger, progress: Progress) -> None:
    """The whole run; returns when every round's policy is published and evaluated."""
    draws = Draws(team.sampler, plan.config.actors.max_set_aside)
    run = Run(plan=plan, team=team, ledger=ledger, progress=progress, orders=Orders(ledger.has), draws=draws)
    with one_reason():
        async with asyncio.TaskGroup() as ahead:
            await evaluate(run, [plan.policy(-1), *plan.founders(0)], 0)
            for round_ in range(plan.rounds):
                await draw_and_learn(run, round_, ahead)
                joined = plan.founders(round_) if round_ else []
                await evaluate(run, [*joined, plan.policy(round_)], round_)
                check_collapse(plan, ledger.gain_over_base(round_), round_)


async def draw_and_learn(run: Run, round_: int, ahead: asyncio.TaskGroup) -> None:
    """The gallery, then what is learned from it; or reward models that learn while its images are still ranked."""
    ranked = Arrivals(run.plan.rankings(round_))

    async def fill() -> None:
        await fill_gallery(run, round_, ranked)
        ahead.create_task(draw_ahead(run, round_))

    with one_reason():
        async with asyncio.TaskGroup() as group:
            filled = group.create_task(fill())
            first = run.plan.config.reward.rankings_first
            await (filled if first == ALL else ranked.reach(int(first)))
            await learn(run, round_, ranked)


async def fill_gallery(run: Run, round_: int, ranked: Arrivals) -> None:
    """The round's newcomers draw every gallery prompt; a segment is ranked as soon as its images are there."""
    plan, orders = run.plan, run.orders
    segments = range(len(plan.segments()))
    with run.progress.phase("gallery", len(segments) * (len(plan.newcomers(round_)) + 1), round_) as advance:

        async def fill(segment: int) -> None:
            await together(draw(run, order, advance) for order in plan.draw_orders(round_, segment))
            order = plan.rank_order(round_, segment)
            await orders.once(RANKINGS, order.id, lambda: run.team.judge.rank(order), advance)
            await ranked.put(order.id)

        await together(fill(segment) for segment in segments)


async def draw(run: Run, order: DrawOrder, advance: Advance | None = None) -> None:
    """The images of an order, once."""
    await run.orders.once(order.kind, order.id, lambda: run.draws.draw(order), advance)


async def draw_ahead(run: Run, round_: int) -> None:
    """While others learn, samplers draw what the next rounds need and no policy of this run changes.

    At most one order per sampler waits at a time, so that what this round needs is never far behind.
    """
    plan = run.plan
    slots = asyncio.Semaphore(most_at_work(plan.config.actors, "sampler"))

    async def draw_one(order: DrawOrder) -> None:
        async with slots:
            await draw(run, order)

    await together(draw_one(order) for order in plan.ahead_orders(round_))


async def learn(run: Run, round_: int, ranked: Arrivals) -> None:
    """Rewards, then the policy; or the policy from the first usable rewards on, while those learn further."""
    board = RewardBoard(run.team.reward_learners)
    with one_reason():
        async with asyncio.TaskGroup() as group:
            rewards = group.create_task(learn_rewards(run, board, round_, ranked))
            if run.plan.config.policy.reward_updates_first == ALL:
                await rewards
            if not run.ledger.has_policy(round_):
                await board.complete()
                await ranked.complete()  # it learns from the gallery's images too
                await learn_policy(run, board, round_)


async def learn_rewards(run: Run, board: RewardBoard, round_: int, ranked: Arrivals) -> None:
    """Every aspect's reward model learns the round's pairs; untrusted ones stop the run or get weight 0, by config."""
    plan, learners = run.plan, run.team.reward_learners
    config, version = plan.config.reward, plan.reward_version(round_)
    with run.progress.phase("rewards", config.updates * len(learners), round_) as advance:

        async def learn_one(aspect: str) -> None:
            report = await again(plan.config.actors.max_retries, lambda: learned(aspect))
            board.put(trusted(report, config.min_accuracy, config.on_bad_reward))

        async def learned(aspect: str) -> RewardReport:
            if report := run.ledger.reward_report(aspect, version):  # also of an attempt that died right after
                return report
            order = RewardOrder(
                aspect=aspect,
                round=round_,
                version=version,
                start_version=version - 1 if version > 0 else None,
                rankings=(),
            )
            work = RewardWork(
                order=order,
                plan=plan,
                board=board,
                ranked=ranked,
                advance=advance,
                hold=lambda report: run.ledger.hold("newest", {aspect: report}),
            )
            return await _learn_reward(learners[aspect], work)

        await together(learn_one(aspect) for aspect in learners)


@dataclass(frozen=True, kw_only=True)
class RewardWork:
    """One aspect's learning in one round; the order's rankings are those that are there when it begins."""

    order: RewardOrder
    plan: Plan
    board: RewardBoard
    ranked: Arrivals
    advance: Advance
    hold: Callable[[RewardReport], None]


async def _learn_reward(learner: RewardLearner, work: RewardWork) -> RewardReport:
    config, ranked = work.plan.config.reward, work.ranked
    order = replace(work.order, rankings=ranked.there())
    seen = set(order.rankings)
    stops = work.plan.reward_stops
    live_role = live_reward_role(order.aspect, secrets.token_hex(4))
    done = await learner.open(order)
    work.advance(done, {})

    async def take_in() -> None:
        if new := tuple(id_ for id_ in ranked.there() if id_ not in seen):
            await learner.add(new)
            seen.update(new)

    while done < config.updates:
        num = min(REWARD_SLICE, *(stop - done for stop in stops if stop > done))
        await ranked.reach_share(done + num, config.updates)  # updates are spread over the pairs that are to come
        await take_in()
        metrics = await learner.advance(num)
        done += num
        work.advance(num, {f"reward/{order.aspect}_{name}": value for name, value in metrics.items()})
        if done in stops and done < config.updates:
            early = await learner.publish_live(live_role)
            work.advance(0, {f"reward/{order.aspect}_early_accuracy": early.accuracy})
            if early.accuracy >= config.min_accuracy:
                work.hold(early)
                work.board.put(early)
    await ranked.complete()
    await take_in()
    report = await learner.publish()
    work.advance(0, {f"reward/{order.aspect}_held_out_accuracy": report.accuracy})
    return report


async def learn_policy(run: Run, board: RewardBoard, round_: int) -> None:
    """One round of feedback learning, begun again from its last checkpoint if the learners die."""
    plan = run.plan
    start_version = round_ - 1 if round_ > 0 and plan.config.policy.start_from == "previous" else None

    async def learn() -> None:
        if run.ledger.has_policy(round_):  # published by an attempt of which a rank died right after
            return
        order = PolicyOrder(
            round=round_,
            start_version=start_version,
            live_role=live_policy_role(secrets.token_hex(4)),  # never the name of an attempt that died half-way
            rewards=board.reports(),
            rankings=plan.rankings(round_),
        )
        run.ledger.hold("order", order.rewards)
        await _learn_policy(run, order, board)

    try:
        await again(plan.config.actors.max_retries, learn, run.team.policy_learner.restart)
    except DivergedError as error:
        raise DivergedError(f"round {round_}: {error}. {last_good(plan, round_)}") from error


async def _learn_policy(run: Run, order: PolicyOrder, board: RewardBoard) -> None:
    """Rollers work ahead of the learner by at most max_policy_lag updates; nothing is dropped.

    A rollout starts when one of (lag + 1) * rollouts_per_update slots is free, and slots are freed only after a new
    version is published, so rollout i, used in update i // rollouts_per_update, never lags by more than max_policy_lag.
    """
    plan, team = run.plan, run.team
    config, per_update = plan.config.policy, plan.rollouts_per_update
    turn = board.turn
    with run.progress.phase("policy", config.updates, order.round) as advance:
        done = published = await team.policy_learner.open(order)
        advance(done, {})
        slots = asyncio.Semaphore((config.max_policy_lag + 1) * per_update)
        rolled: asyncio.Queue[asyncio.Task[Rollout]] = asyncio.Queue()

        async def roll_out(group: asyncio.TaskGroup) -> None:
            for index in range(done * per_update, config.updates * per_update):
                await slots.acquire()
                rollout_order = plan.rollout_order(order.round, index, (order.live_role, published))
                rolled.put_nowait(group.create_task(team.roller.roll(rollout_order)))

        async def update(number: int) -> Mapping[str, float]:
            nonlocal turn
            rollouts = [await (await rolled.get()) for _ in range(per_update)]
            if board.turn != turn:
                turn, rewards = board.turn, board.reports()
                run.ledger.hold("taken", rewards)
                await team.policy_learner.take_rewards(rewards)
            metrics = await team.policy_learner.update(number, rollouts)
            lag = number - min(rollout.version for rollout in rollouts)
            return {**{f"policy/{name}": value for name, value in metrics.items()}, "policy/lag_updates": lag}

        async def learn() -> None:
            nonlocal published
            for number in range(done, config.updates):
                metrics = await update(number)
                published = number + 1
                for _ in range(per_update):
                    slots.release()
                advance(1, metrics)

        with one_reason():
            async with asyncio.TaskGroup() as group:
                group.create_task(roll_out(group))
                group.create_task(learn())
        await board.finished()
        await team.policy_learner.publish(board.reports())
        for use in ("order", "newest", "taken"):
            run.ledger.hold(use, board.reports())


async def evaluate(run: Run, models: list[ModelRef], round_: int) -> None:
    """Models draw the held-out prompts (and seen ones, if configured), all with the same seeds, and are graded.

    The policies among them are measured by their denoising loss on held-out pictures, last where founders draw those.
    """
    orders = run.plan.grading_orders(models)
    measures = [order for model in models for order in run.plan.measure_orders(model)]
    with run.progress.phase("evaluation", len(orders) + len(measures), round_) as advance:

        async def grade(order: DrawOrder) -> None:
            await draw(run, order)
            await run.orders.once(GRADES, order.id, lambda: run.team.judge.grade(order.id), advance)

        async def measure(order: MeasureOrder) -> None:
            await run.orders.once(LOSSES, order.id, lambda: run.team.sampler.measure(order), advance)

        ready = [measure(order) for order in measures if not order.images]
        await together([*(grade(order) for order in orders), *ready])
        await together(measure(order) for order in measures if order.images)
