"""The loop against a team of small local objects with random timings: what it orders, in which order, how stale."""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

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
from itercomp_rl.loop import run_rounds
from itercomp_rl.orders import Advance
from itercomp_rl.plan import Plan
from itercomp_rl.roles import Team
from itercomp_rl.schema import Config


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
        self.used: list[int] = []
        self.restarts = 0
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
        if {prompt.id for i, prompt in enumerate(order.prompts) if i not in order.set_aside} & self.deadly:
            raise WorkerDiedError(f"sampler-0 died while it had to draw {order.kind}/{order.id}")
        if order.set_aside:
            self.set_aside[order.id] = order.set_aside
        self.done.add((order.kind, order.id))
        self.events.append(f"draw {order.kind} {order.id}")

    async def measure(self, order: MeasureOrder) -> None:
        await self.pause()
        assert ("losses", order.id) not in self.done, "a policy was measured twice"
        assert order.model.version is None or order.model.version in self.policies, "measured before it was published"
        assert all(("grades", ref.segment) in self.done for ref in order.images), "measured on pictures not drawn yet"
        self.done.add(("losses", order.id))
        self.events.append(f"measure {order.id}")

    async def probe(self, order: DrawOrder) -> None:
        await self.pause()
        if {prompt.id for prompt in order.prompts} & self.deadly:
            raise WorkerDiedError("sampler-0 died while it had to probe")

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

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        self.taken.append((self.version, dict(rewards)))

    async def checkpoint(self) -> None:
        self.events.append(f"checkpoint {self.version}")

    async def publish(self, rewards: Mapping[str, RewardReport]) -> None:
        assert self.order is not None
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


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_no_rollout_is_staler_than_max_policy_lag_and_none_is_lost(max_lag: int) -> None:
    reached, plan = 0, small(f"policy.max_policy_lag={max_lag}")
    for seed in range(25):
        team = LocalTeam(seed)
        play(team, plan)
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
    ranked, learned = kinds.index("learn"), kinds.index("update")
    assert set(kinds[:ranked]) == {"draw", "rank"}
    assert set(kinds[ranked : kinds.index("roll")]) == {"learn", "reward"}
    assert ranked < learned
    assert changes[-1] == "policy"
    assert [event for event in team.events if event.startswith("reward")][:3] == sorted(
        [f"reward {aspect} 25" for aspect in ("attribute", "spatial", "non_spatial")],
        key=[event for event in team.events if event.startswith("reward")].index,
    )


def test_every_model_draws_every_prompt_once_and_newcomers_join() -> None:
    team, plan = LocalTeam(0), small()
    play(team, plan)
    drawn = sorted(event.split()[-1] for event in team.events if event.startswith("draw images"))
    models = [*plan.config.gallery.members, "policy-0"]
    assert drawn == sorted(f"{model}-{segment:05d}" for model in models for segment in range(len(plan.segments())))


def test_the_base_and_every_round_s_policy_are_measured_once() -> None:
    team, plan = LocalTeam(0), small()
    play(team, plan)
    seed = plan.config.evaluation.seed
    measured = [event.removeprefix("measure ") for event in team.events if event.startswith("measure")]
    assert measured == [f"test-s{seed}-{name}" for name in ("base-policy", "policy-0", "policy-1")]
    off = LocalTeam(0)
    play(off, small("evaluation.denoising_images=0"))
    assert not any(event.startswith("measure") for event in off.events)


def test_a_finished_run_orders_nothing_again() -> None:
    team, plan = LocalTeam(0), small()
    play(team, plan)
    before = list(team.events)
    play(team, plan)
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


def test_the_policy_begins_with_usable_rewards_and_takes_over_what_they_learn_further() -> None:
    overlapped = 0
    for seed in range(5):
        team = LocalTeam(seed)
        play(team, small("policy.reward_updates_first=5", "policy.max_policy_lag=1"))
        assert max(team.lags) <= 1
        assert team.used == [*range(16), *range(16)]
        first = [event for event in team.events[: team.events.index("policy 0")] if "evaluations" not in event]
        updates = [i for i, event in enumerate(first) if event.startswith("update")]
        finished = [i for i, event in enumerate(first) if event.startswith("reward")]
        assert len(finished) == 3
        overlapped += updates[0] < finished[-1]
        for _, reports in team.taken:  # always all three aspects, versions that are published
            assert set(reports) == {"attribute", "spatial", "non_spatial"}
            assert all(report.live_role is None or report.version % 5 == 0 for report in reports.values())
        for aspect in ("attribute", "spatial", "non_spatial"):
            versions = [r[aspect].version if r[aspect].live_role else 25 for at, r in team.taken if r[aspect]]
            assert all(later >= earlier for earlier, later in pairwise(versions) if earlier != 25)
    assert overlapped, "the policy never learned beside the rewards"


def test_an_early_reward_no_better_than_chance_is_not_handed_to_the_policy() -> None:
    team = LocalTeam(0, accuracy=0.51)
    play(team, small("policy.reward_updates_first=5", "reward.on_bad_reward=drop", "run.rounds=1"))
    assert team.taken == []
    assert team.order is not None
    assert all(report.live_role is None and report.weight == 0 for report in team.order.rewards.values())


@pytest.mark.parametrize("first", ["1", "3", "all"])
def test_rewards_learn_while_images_are_ranked_but_from_no_smaller_share_of_them(first: str) -> None:
    early = 0
    for seed in range(5):
        team = LocalTeam(seed)
        plan = small(f"reward.rankings_first={first}", "gallery.segment=10", "reward.updates=60")
        play(team, plan)
        for round_ in range(plan.rounds):
            ranked = [i for i, event in enumerate(team.events) if event.startswith(f"rank r{round_:03d}")]
            begun = [i for i, event in enumerate(team.events) if event.startswith("learn")][round_ * 18]
            assert len(ranked) == len(plan.segments()) == 6
            assert sum(i < begun for i in ranked) >= (6 if first == "all" else int(first))
            early += begun < ranked[-1]
            policy = next(i for i, event in enumerate(team.events) if event.startswith("roll") and i > begun)
            assert policy > ranked[-1], "the policy learned from a gallery that was not whole"
        assert all(updates / 60 <= rankings / 6 for updates, rankings in team.shares)
        assert set(map(frozenset, team.learned_from.values())) == {frozenset(plan.rankings(r)) for r in range(2)}
    assert (early > 0) == (first != "all")


LATER = ("gallery.members.late.model=embedded:relation", "gallery.members.late.num_steps=6")


def test_frozen_newcomers_of_the_next_round_are_drawn_while_this_round_learns() -> None:
    for ahead in (0, 1):
        counts = []
        for seed in range(5):
            team = LocalTeam(seed)
            plan = small(*LATER, "gallery.members.late.join_round=1", f"gallery.rounds_ahead={ahead}")
            play(team, plan)
            published = team.events.index("policy 0")
            drawn = [event for event in team.events if event.startswith("draw images late")]
            assert len(drawn) == len(set(drawn)) == len(plan.segments())
            counts.append(sum(team.events.index(event) < published for event in drawn))
            assert not any("images policy-0" in event for event in team.events[:published])
        assert (max(counts) > 0) == (ahead == 1)


def test_no_member_is_drawn_further_ahead_than_rounds_ahead() -> None:
    team, plan = LocalTeam(0), small(*LATER, "gallery.members.late.join_round=2", "run.rounds=3")
    play(team, plan)
    late = min(i for i, event in enumerate(team.events) if event.startswith("draw images late"))
    assert team.events.index("policy 0") < late < team.events.index("policy 1")


def test_a_prompt_that_no_sampler_survives_is_set_aside_and_named(caplog: pytest.LogCaptureFixture) -> None:
    team, plan = LocalTeam(0), small("run.rounds=1", "gallery.segment=20")
    bad = plan.gallery_prompts[23]
    team.deadly = frozenset({bad.id})
    play(team, plan)
    assert team.set_aside == {f"{model}-00001": (3,) for model in plan.config.gallery.members}
    assert caplog.text.count("set aside") == 3
    assert repr(bad.text) in caplog.text


def test_more_deadly_prompts_than_may_be_set_aside_end_the_run() -> None:
    team, plan = LocalTeam(0), small("run.rounds=1", "actors.max_set_aside=2")
    team.deadly = frozenset(prompt.id for prompt in plan.gallery_prompts[:3])
    with pytest.raises(
        WorkerDiedError, match="prompt number 3 that no sampler survives, and actors.max_set_aside is 2"
    ):
        play(team, plan)


def test_a_policy_far_below_the_base_ends_the_run_and_the_last_good_one_is_named() -> None:
    team = LocalTeam(0)
    team.gain = (-0.5, 0.1)
    with pytest.raises(DivergedError, match="0.500 ± 0.100 below the base.*The last good policy is the base"):
        play(team, small())
    assert team.policies == {0}
    for gain in ((-0.5, 0.2), (-0.05, 0.0)):  # in doubt, or less than evaluation.max_drop
        team = LocalTeam(0)
        team.gain = gain
        play(team, small())
        assert team.policies == {0, 1}


def test_a_diverged_update_names_the_last_good_version() -> None:
    class Diverging(LocalTeam):
        async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
            if self.policies and number == 3:
                raise DivergedError("the gradient norm of update 3 is not finite")
            return await super().update(number, rollouts)

    team = Diverging(0)
    with pytest.raises(DivergedError, match="round 1: the gradient norm of update 3 .* is policy version 0"):
        play(team, small())
