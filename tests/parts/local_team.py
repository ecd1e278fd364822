"""A team of small local objects for the loop: they wait a while, remember what was ordered, and commit to a set."""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import WorkerDiedError
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
from itercomp_rl.loop.rounds import run_rounds
from itercomp_rl.plan import Plan


class LocalTeam:
    """All roles in one object: does nothing but wait a random while, remember, and commit to a set."""

    def __init__(self, seed: int, accuracy: float = 0.9, deaths: int = 0, resumed_at: int = 0) -> None:
        self.deadly: frozenset[str] = frozenset()  # ids of prompts that no sampler survives
        self.gain = (0.1, 0.01)
        self.set_aside: dict[str, tuple[int, ...]] = {}
        self.taken: list[tuple[int, dict[str, RewardReport]]] = []
        self.random, self.accuracy, self.deaths, self.resumed_at = random.Random(seed), accuracy, deaths, resumed_at
        self.events: list[str] = []
        self.done: set[tuple[str, str]] = set()
        self.reports: dict[tuple[str, int], RewardReport] = {}
        self.policies: set[int] = set()
        self.lags: list[int] = []
        self.version = 0
        self.held: dict[tuple[str, str], RewardReport] = {}
        self.used: list[int] = []
        self.restarts = 0
        self.probe_score = float  # of an update
        self.kept: list[int | None] = []
        self.probed: list[int] = []  # updates of the probes that were reported, in order
        self.order: PolicyOrder | None = None
        self.reward_order: dict[str, RewardOrder] = {}
        self.shares: list[tuple[int, int]] = []  # updates made, rankings they had to learn from
        self.learned_from: dict[tuple[str, int], set[str]] = {}

    async def pause(self) -> None:
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    async def draw(self, order: DrawOrder) -> None:
        await self.pause()
        assert (order.kind, order.id) not in self.done, "an image group was drawn twice"
        if {prompt.id for i, prompt in enumerate(order.prompts) if i not in order.skipped} & self.deadly:
            raise WorkerDiedError(f"sampler-0 died while it had to draw {order.kind}/{order.id}")
        if order.skipped:
            self.set_aside[order.id] = order.skipped
        self.done.add((order.kind, order.id))
        self.events.append(f"draw {order.kind} {order.id}")

    async def measure(self, order: MeasureOrder) -> None:
        await self.pause()
        assert ("losses", order.id) not in self.done, "a policy was measured twice"
        assert order.model.version is None or order.model.version in self.policies, "measured before it was published"
        assert all(("grades", ref.segment) in self.done for ref in order.images), "measured on pictures not drawn yet"
        self.done.add(("losses", order.id))
        self.events.append(f"measure {order.id}")

    async def try_drawing(self, order: DrawOrder) -> None:
        await self.pause()
        if {prompt.id for prompt in order.prompts} & self.deadly:
            raise WorkerDiedError("sampler-0 died while it tried to draw")

    async def rank(self, order: RankOrder) -> None:
        await self.pause()
        for images in order.images:
            assert all(("images", ref.segment) in self.done for ref in images.values()), "ranked before drawn"
        self.done.add(("rankings", order.id))
        self.events.append(f"rank {order.id}")

    async def grade(self, segment: str) -> None:
        await self.pause()
        assert ("evaluations", segment) in self.done
        self.done.add(("grades", segment))

    async def grade_probe(self, order: ProbeOrder) -> None:
        await self.pause()
        assert ("probes", order.id) in self.done, "a probe was graded before it was drawn"
        assert ("probe-grades", order.id) not in self.done, "a probe was graded twice"
        assert self._are_held(order.rewards), "reward models to score with that a collector may take away"
        self.done.add(("probe-grades", order.id))
        self.events.append(f"probe {order.round} {order.update}")

    async def roll(self, order: RolloutOrder) -> Rollout:
        assert order.version <= self.version, "rolled out under a version nobody has published"
        await self.pause()  # it waits for a roller, which takes the newest version then
        version = self.version
        await self.pause()
        self.events.append(f"roll {order.index}")
        latents = np.zeros((1, 1, 1, 1), np.float32)
        return Rollout(
            index=order.index, version=version, prompts=order.prompts, mid_steps=order.mid_steps, latents=latents
        )

    def hold(self, use: str, reports: Mapping[str, RewardReport]) -> None:
        self.held |= {(use, aspect): report for aspect, report in reports.items()}

    def _are_held(self, reports: Mapping[str, RewardReport]) -> bool:
        return all(report in self.held.values() for report in reports.values() if report.live_role)

    async def open(self, order: PolicyOrder) -> int:
        assert self._are_held(order.rewards), "reward models to learn from that a collector may take away"
        self.order, self.version = order, self.resumed_at
        return self.resumed_at

    async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
        assert number == self.version
        await self.pause()
        if self.deaths and number == 2:
            self.deaths -= 1
            raise WorkerDiedError("rank 1 died")
        self.lags += [number - rollout.version for rollout in rollouts]
        self.used += [rollout.index for rollout in rollouts]
        self.events.append(f"update {number}")
        self.version = number + 1
        return {"loss": 1.0}

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        await self.pause()
        assert self._are_held(rewards), "reward models to learn from that a collector may take away"
        assert self.order is None or self._are_held(self.order.rewards), "an attempt begun again would not find them"
        self.taken.append((self.version, dict(rewards)))

    async def checkpoint(self) -> None:
        self.events.append(f"checkpoint {self.version}")

    async def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        assert self.order is not None
        self.kept.append(kept)
        assert {report.live_role for report in rewards.values()} == {None}, "published before its rewards were finished"
        self.policies.add(self.order.round)
        self.events.append(f"policy {self.order.round}")

    async def restart(self) -> None:
        self.restarts += 1

    def has(self, kind: str, id_: str) -> bool:
        return (kind, id_) in self.done

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        return self.reports.get((aspect, version))

    def has_policy(self, version: int) -> bool:
        return version in self.policies

    def reference_rewards(self, round_: int) -> Mapping[str, RewardReport]:
        return {aspect: report for (aspect, version), report in self.reports.items() if version == 0}

    def probe_values(self, round_: int, update: int) -> Mapping[str, float]:
        self.probed.append(update)
        return {"score": self.probe_score(update)}

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return self.gain

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        yield lambda steps, metrics: None

    def team(self, config: Config) -> Team:
        learners = {aspect: LocalRewardLearner(self, aspect) for aspect in config.prompts.aspects}
        return Team(sampler=self, judge=self, reward_learners=learners, roller=self, policy_learner=self)


class LocalRewardLearner:
    def __init__(self, team: LocalTeam, aspect: str) -> None:
        self.team, self.aspect, self.updates = team, aspect, 0

    async def open(self, order: RewardOrder) -> int:
        assert all(("rankings", id_) in self.team.done for id_ in order.rankings), "learned before ranked"
        self.order, self.updates, self.rankings = order, 0, list(order.rankings)
        return 0

    async def add(self, rankings: tuple[str, ...]) -> None:
        assert all(("rankings", id_) in self.team.done for id_ in rankings), "learned before ranked"
        self.rankings += rankings

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        await self.team.pause()
        self.updates += num_updates
        self.team.events.append(f"learn {self.aspect}")
        self.team.shares.append((self.updates, len(self.rankings)))
        return {"loss": 0.5}

    async def checkpoint(self) -> None:
        self.team.events.append(f"checkpoint {self.aspect}")

    async def publish_live(self, live_role: str) -> RewardReport:
        await self.team.pause()
        return self.report(self.updates, live_role)

    async def publish(self) -> RewardReport:
        report = self.report(self.order.version, None)
        assert len(self.rankings) == len(set(self.rankings))
        self.team.learned_from[self.aspect, self.order.version] = set(self.rankings)
        self.team.reports[self.aspect, self.order.version] = report
        self.team.events.append(f"reward {self.aspect} {self.updates}")
        return report

    def report(self, version: int, live_role: str | None) -> RewardReport:
        return RewardReport(
            aspect=self.aspect,
            version=version,
            accuracy=self.team.accuracy,
            num_pairs=50,
            mean=0.0,
            std=1.0,
            weight=1.0,
            live_role=live_role,
        )


@cache
def small(*overrides: str) -> Plan:
    base = ["policy.updates=8", "policy.batch=8", "policy.rollout_batch=4", "run.rounds=2", "reward.updates=25"]
    return Plan(config=load_config("tiny", [*base, *overrides]))


def play(team: LocalTeam, plan: Plan) -> None:
    asyncio.run(run_rounds(plan, team.team(plan.config), team, team))
