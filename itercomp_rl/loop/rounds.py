"""The loop of a run: gallery -> rankings -> rewards -> policy, round after round, in plain asyncio.

Each piece of work has a fixed id and leaves a commit in the store. A piece whose commit is there is not ordered again:
that is all there is to resuming. One failure cancels everything and ends the run with its reason.
"""

import asyncio

from itercomp_rl.config.schema import ALL
from itercomp_rl.items import DrawOrder, MeasureOrder, ModelRef
from itercomp_rl.loop.boards import Arrivals, RewardBoard
from itercomp_rl.loop.dispatch import one_reason, together
from itercomp_rl.loop.divergence import check_collapse
from itercomp_rl.loop.member_counts import most_at_work
from itercomp_rl.loop.policy_phase import learn_policy
from itercomp_rl.loop.reward_phase import learn_rewards
from itercomp_rl.loop.roles import Advance, Ledger, Progress, Team
from itercomp_rl.loop.run import Run, begin
from itercomp_rl.plan import Plan
from itercomp_rl.store.kinds import GRADES, LOSSES, RANKINGS


async def run_rounds(plan: Plan, team: Team, ledger: Ledger, progress: Progress) -> None:
    """The whole run; returns when every round's policy is published and evaluated."""
    run = begin(plan, team, ledger, progress)
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
            await learn_round(run, round_, ranked)


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
    await run.orders.once(order.kind, order.id, lambda: run.drawing.draw(order), advance)


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


async def learn_round(run: Run, round_: int, ranked: Arrivals) -> None:
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
