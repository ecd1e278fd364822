"""A team that does nothing but take its time, and remembers what it did; for itercomp_rl/forecast/simulation.py."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from itercomp_rl.forecast.stage_times import StageTimes
from itercomp_rl.forecast.virtual_clock import JumpingLoop
from itercomp_rl.items import (
    DrawOrder,
    MeasureOrder,
    PolicyOrder,
    ProbeOrder,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)
from itercomp_rl.loop.roles import Advance, Team
from itercomp_rl.loop.worker_pool import POOLED, make_pools
from itercomp_rl.plan import Plan
from itercomp_rl.store.kinds import GRADES, LOSSES, PROBE_GRADES, RANKINGS

Processes = Mapping[str, Sequence[str]]  # label -> names of the roles that the process holds, "roller-0"
LATENTS = np.zeros((0,), np.float32)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One phase of a round, in seconds from the start: Span(round=0, phase="policy", began=12.0, ended=80.0)."""

    round: int
    phase: str
    began: float
    ended: float


class _Process:
    """Does one call at a time, in the order in which they came."""

    def __init__(self, loop: JumpingLoop) -> None:
        self._loop, self.free_at, self.busy_s = loop, 0.0, 0.0

    async def work(self, seconds: float) -> None:
        self.free_at = max(self._loop.now, self.free_at) + seconds
        self.busy_s += seconds
        await self._loop.until(self.free_at)


@dataclass
class _Member:
    process: _Process
    version: tuple[str, int] | None = field(default=None)  # of the weights a roller holds


class SimulatedTeam:
    """Every role, the ledger and the progress of a simulated run."""

    def __init__(
        self, plan: Plan, times: StageTimes, processes: Processes, random_: random.Random, loop: JumpingLoop
    ) -> None:
        self._plan, self._times, self._random, self._loop = plan, times, random_, loop
        self.processes = {label: _Process(loop) for label in processes}
        self._driver = _Process(loop)
        held: dict[str, dict[str, _Member]] = {}
        for label, names in processes.items():
            for name in names:
                held.setdefault(name.rpartition("-")[0], {})[name] = _Member(self.processes[label])
        self._rewards = held["reward_learner"]
        self._ranks = [member.process for member in held["policy_learner"].values()]
        self._pools = make_pools(plan.config.actors, {kind: list(held[kind].values()) for kind in POOLED})
        self.members = {kind: len(members) for kind, members in held.items()}
        self.members["reward_learner"] = len({id(member.process) for member in self._rewards.values()})
        self.busy_s = dict.fromkeys(self.members, 0.0)
        self.spans: list[Span] = []
        self.done: set[tuple[str, str]] = set()
        self.reports: dict[tuple[str, int], RewardReport] = {}
        self.policies: set[int] = set()
        self.update_ends: dict[int, list[float]] = {}
        self._segment_sizes: dict[str, int] = {}
        self.max_lag = self.num_orders = self._round = self._updates = 0

    def team(self) -> Team:
        learners = {aspect: _RewardLearner(self, aspect) for aspect in self._plan.config.prompts.aspects}
        return Team(sampler=self, judge=self, reward_learners=learners, roller=self, policy_learner=self)

    async def order(self) -> None:
        """The driver's part of an order."""
        self.num_orders += 1
        if self._times.call_s:
            await self._driver.work(self._times.call_s)

    def drawn(self, seconds: float) -> float:
        """A time with its spread."""
        spread = self._times.spread
        return seconds * self._random.uniform(1 - spread, 1 + spread) if spread else seconds

    async def _pooled(self, kind: str, seconds: Callable[[_Member], float]) -> None:
        pool = self._pools[kind]
        member = await pool.get(kind)
        try:
            await self.order()
            spent = self.drawn(seconds(member))
            self.busy_s[kind] += spent
            await member.process.work(spent)
        finally:
            pool.put(kind, member)

    async def draw(self, order: DrawOrder) -> None:
        await self._pooled("sampler", lambda _: self._times.draw_s(order.model, len(order.prompts)))
        self.done.add((order.kind, order.id))

    async def measure(self, order: MeasureOrder) -> None:
        # A picture is denoised once from each of ten noise levels: about the passes that drawing one takes.
        await self._pooled("sampler", lambda _: self._times.draw_s(order.model, len(order.prompts)))
        self.done.add((LOSSES, order.id))

    async def rank(self, order: RankOrder) -> None:
        num = sum(len(images) for images in order.images)
        await self._pooled("judge", lambda _: num * self._times.rank_image_s)
        self.done.add((RANKINGS, order.id))

    async def grade(self, segment: str) -> None:
        num = self._graded(segment)
        await self._pooled("judge", lambda _: num * self._times.grade_image_s)
        self.done.add((GRADES, segment))

    async def grade_probe(self, order: ProbeOrder) -> None:
        num = next(len(o.prompts) for o in self._plan.probe_orders(order.round, order.update) if o.id == order.id)
        # By the judge, by the rewards that are climbed and by those that stay the same.
        await self._pooled("judge", lambda _: num * (self._times.grade_image_s + 2 * self._times.rank_image_s))
        self.done.add((PROBE_GRADES, order.id))

    def _graded(self, segment: str) -> int:
        if segment not in self._segment_sizes:
            self._segment_sizes.update(
                (order.id, len(order.prompts)) for order in self._plan.grading_orders(self._plan.evaluated())
            )
        return self._segment_sizes[segment]

    async def roll(self, order: RolloutOrder) -> Rollout:
        version = order.version

        def seconds(member: _Member) -> float:
            nonlocal version
            version = self._updates  # the newest there is when it begins
            is_new = member.version != (order.role, version)
            member.version = (order.role, version)
            return self._times.roll_s + (self._times.load_s if is_new else 0.0)

        await self._pooled("roller", seconds)
        return Rollout(index=order.index, version=version, prompts=(), mid_steps=(), latents=LATENTS)

    async def reward(self, aspect: str, seconds: float) -> None:
        """One call of an aspect's learner."""
        await self.order()
        spent = self.drawn(seconds)
        self.busy_s["reward_learner"] += spent
        await self._rewards[f"reward_learner-{aspect}"].process.work(spent)

    async def _ranks_work(self, seconds: float) -> None:
        await self.order()
        spent = self.drawn(seconds)
        began = max(self._loop.now, *(process.free_at for process in self._ranks))
        for process in self._ranks:
            process.free_at = began + spent
            process.busy_s += spent
            self.busy_s["policy_learner"] += spent
        await self._loop.until(began + spent)

    async def open(self, order: PolicyOrder) -> int:
        self._round, self._updates = order.round, 0
        await self._ranks_work(self._times.policy_open_s)
        return 0

    async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
        self.max_lag = max(self.max_lag, *(number - rollout.version for rollout in rollouts))
        await self._ranks_work(self._times.update_s(len(rollouts), len(self._ranks)))
        self._updates = number + 1
        self.update_ends.setdefault(self._round, []).append(self._loop.now)
        return {}

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        await self._ranks_work(0.0)

    async def checkpoint(self) -> None:
        raise AssertionError("nobody stops a simulation")

    async def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        await self._ranks_work(self._times.policy_publish_s)
        self.policies.add(self._round)

    async def try_drawing(self, order: DrawOrder) -> None:
        raise AssertionError("nobody dies in a simulation")

    async def restart(self) -> None:
        raise AssertionError("nobody dies in a simulation")

    def has(self, kind: str, id_: str) -> bool:
        return (kind, id_) in self.done

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        return self.reports.get((aspect, version))

    def hold(self, use: str, reports: Mapping[str, RewardReport]) -> None:
        pass  # nothing is collected here

    def reference_rewards(self, round_: int) -> Mapping[str, RewardReport]:
        return {}

    def probe_values(self, round_: int, update: int) -> Mapping[str, float]:
        return {"score": float(update)}  # every probe is a new best: no round ends early

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return 0.0, 0.0

    def has_policy(self, version: int) -> bool:
        return version in self.policies

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        began = self._loop.now
        yield lambda steps, metrics: None
        self.spans.append(Span(round=round_, phase=name, began=began, ended=self._loop.now))


class _RewardLearner:
    def __init__(self, team: SimulatedTeam, aspect: str) -> None:
        self._team, self._aspect = team, aspect

    async def open(self, order: RewardOrder) -> int:
        self._version = order.version
        await self._team.reward(self._aspect, self._team._times.reward_open_s)
        return 0

    async def checkpoint(self) -> None:
        raise AssertionError("nobody stops a simulation")

    async def publish_live(self, live_role: str) -> RewardReport:
        await self._team.reward(self._aspect, self._team._times.reward_publish_s)
        return self._report()

    async def add(self, rankings: tuple[str, ...]) -> None:
        """Pairs are read in no time."""

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        await self._team.reward(self._aspect, num_updates * self._team._times.reward_update_s)
        return {}

    async def publish(self) -> RewardReport:
        await self._team.reward(self._aspect, self._team._times.reward_publish_s)
        report = self._report()
        self._team.reports[self._aspect, self._version] = report
        return report

    def _report(self) -> RewardReport:
        return RewardReport(
            aspect=self._aspect, version=self._version, accuracy=1.0, num_pairs=1, mean=0.0, std=1.0, weight=1.0
        )
