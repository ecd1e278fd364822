"""The loop against a team of small local objects with random timings: what it orders, in which order, how stale."""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from itercomp_rl.config import load_config
from itercomp_rl.errors import DivergedError, WorkerDiedError
from itercomp_rl.items import (
    DrawOrder,
    MeasureOrder,
    PolicyOrder,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)
from itercomp_rl.loop import Advance, run_rounds
from itercomp_rl.plan import Plan
from itercomp_rl.roles import Team
from itercomp_rl.schema import Config


class LocalTeam:
    """All roles in one object: does nothing but wait a random while, remember, and commit to a set."""

    def __init__(self, seed: int, accuracy: float = 0.9, deaths: int = 0, resumed_at: int = 0) -> None:
        self.random, self.accuracy, self.deaths, self.resumed_at = random.Random(seed), accuracy, deaths, resumed_at
        self.events: list[str] = []
        self.done: set[tuple[str, str]] = set()
        self.reports: dict[tuple[str, int], RewardReport] = {}
        self.policies: set[int] = set()
        self.lags: list[int] = []
        self.version = 0
        self.used: list[int] = []
        self.restarts = 0
        self.order: PolicyOrder | None = None
        self.reward_order: dict[str, RewardOrder] = {}

    async def pause(self) -> None:
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    async def draw(self, order: DrawOrder) -> None:
        await self.pause()
        assert (order.kind, order.id) not in self.done, "an image group was drawn twice"
        self.done.add((order.kind, order.id))
        self.events.append(f"draw {order.kind} {order.id}")

    async def measure(self, order: MeasureOrder) -> None:
        await self.pause()
        assert ("losses", order.id) not in self.done, "a policy was measured twice"
        assert order.model.version is None or order.model.version in self.policies, "measured before it was published"
        assert all(("grades", ref.segment) in self.done for ref in order.images), "measured on pictures not drawn yet"
        self.done.add(("losses", order.id))
        self.events.append(f"measure {order.id}")

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

    async def roll(self, order: RolloutOrder) -> Rollout:
        assert order.version <= self.version, "rolled out under a version nobody has published"
        await self.pause()
        self.events.append(f"roll {order.index}")
        latents = np.zeros((1, 1, 1, 1), np.float32)
        return Rollout(
            index=order.index, version=order.version, prompts=order.prompts, mid_steps=order.mid_steps, latents=latents
        )

    async def open(self, order: PolicyOrder) -> int:
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

    async def publish(self) -> None:
        assert self.order is not None
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

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        yield lambda steps, metrics: None

    def team(self, config: Config) -> Team:
        learners = {aspect: LocalRewardLearner(self, aspect) for aspect in config.prompts.aspects}
        return Team(sampler=self, judge=self, reward_learners=learners, roller=self, policy_learner=self)


class LocalRewardLearner:
    def __init__(self, team: LocalTeam, aspect: str) -> None:
        self.team, self.aspect, self.updates = team, aspect, 0

    async def open(self, order: RewardOrder) -> None:
        assert all(("rankings", id_) in self.team.done for id_ in order.rankings), "learned before ranked"
        self.order, self.updates = order, 0

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        await self.team.pause()
        self.updates += num_updates
        return {"loss": 0.5}

    async def publish(self) -> RewardReport:
        report = RewardReport(
            aspect=self.aspect,
            version=self.order.version,
            accuracy=self.team.accuracy,
            num_pairs=50,
            mean=0.0,
            std=1.0,
            weight=1.0,
        )
        self.team.reports[self.aspect, self.order.version] = report
        self.team.events.append(f"reward {self.aspect} {self.updates}")
        return report


def small(*overrides: str) -> Config:
    base = ["policy.updates=8", "policy.batch=8", "policy.rollout_batch=4", "run.rounds=2", "reward.updates=25"]
    return load_config("tiny", [*base, *overrides])


def play(team: LocalTeam, config: Config) -> None:
    asyncio.run(run_rounds(Plan(config=config), team.team(config), team, team))


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_no_rollout_is_staler_than_max_policy_lag_and_none_is_lost(max_lag: int) -> None:
    reached, config = 0, small(f"policy.max_policy_lag={max_lag}")
    for seed in range(25):
        team = LocalTeam(seed)
        play(team, config)
        assert max(team.lags) <= max_lag
        assert team.used == [*range(16), *range(16)]  # two rounds of 8 updates of 2 rollouts, in order, each once
        reached = max(reached, max(team.lags))
    assert reached == max_lag


def test_sequential_setting_is_the_papers_order() -> None:
    team = LocalTeam(3)
    play(team, small())
    first_round = team.events[: team.events.index("policy 0") + 1]
    first_round = [event for event in first_round if "evaluations" not in event and "measure" not in event]
    kinds = [event.split()[0] for event in first_round]
    changes = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    ranked, learned = kinds.index("reward"), kinds.index("update")
    assert set(kinds[:ranked]) == {"draw", "rank"}
    assert set(kinds[ranked : kinds.index("roll")]) == {"reward"}
    assert ranked < learned
    assert changes[-1] == "policy"
    assert [event for event in team.events if event.startswith("reward")][:3] == sorted(
        [f"reward {aspect} 25" for aspect in ("attribute", "spatial", "non_spatial")],
        key=[event for event in team.events if event.startswith("reward")].index,
    )


def test_every_model_draws_every_prompt_once_and_newcomers_join() -> None:
    team, config = LocalTeam(0), small()
    play(team, config)
    plan = Plan(config=config)
    drawn = sorted(event.split()[-1] for event in team.events if event.startswith("draw images"))
    models = [*config.gallery.members, "policy-0"]
    assert drawn == sorted(f"{model}-{segment:05d}" for model in models for segment in range(len(plan.segments())))


def test_the_base_and_every_round_s_policy_are_measured_once() -> None:
    team, config = LocalTeam(0), small()
    play(team, config)
    seed = config.evaluation.seed
    measured = [event.removeprefix("measure ") for event in team.events if event.startswith("measure")]
    assert measured == [f"test-s{seed}-{name}" for name in ("base-policy", "policy-0", "policy-1")]
    off = LocalTeam(0)
    play(off, small("evaluation.denoising_images=0"))
    assert not any(event.startswith("measure") for event in off.events)


def test_a_finished_run_orders_nothing_again() -> None:
    team, config = LocalTeam(0), small()
    play(team, config)
    before = list(team.events)
    play(team, config)
    assert team.events == before


def test_a_resumed_round_goes_on_at_the_update_of_its_checkpoint() -> None:
    team = LocalTeam(0, resumed_at=5)
    play(team, small("run.rounds=1"))
    assert team.used == list(range(10, 16))


def test_a_dead_rank_restarts_the_group_and_the_run_finishes() -> None:
    team = LocalTeam(1, deaths=2)
    play(team, small("run.rounds=1"))
    assert team.restarts == 2
    assert 0 in team.policies


def test_deaths_beyond_max_retries_end_the_run_with_the_reason() -> None:
    with pytest.raises(WorkerDiedError, match="rank 1 died"):
        play(LocalTeam(1, deaths=9), small("run.rounds=1", "actors.max_retries=1"))


def test_a_reward_no_better_than_chance_stops_the_run() -> None:
    with pytest.raises(DivergedError, match="right on 51% of 50 held-out pairs"):
        play(LocalTeam(0, accuracy=0.51), small("reward.on_bad_reward=stop"))


def test_a_bad_reward_is_dropped_where_the_config_says_so() -> None:
    team = LocalTeam(0, accuracy=0.51)
    play(team, small("reward.on_bad_reward=drop"))
    assert team.order is not None
    assert {report.weight for report in team.order.rewards.values()} == {0.0}
