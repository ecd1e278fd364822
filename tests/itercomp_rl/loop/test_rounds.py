"""The loop against a team of small local objects with random timings: what it orders, in which order, how stale."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

from itercomp_rl.errors import DivergedError, WorkerDiedError
from itercomp_rl.items import RewardReport, Rollout
from tests.parts.local_team import LocalTeam, play, small


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


def test_a_rank_that_dies_once_the_policy_is_published_has_nothing_learned_again() -> None:
    class DyingLast(LocalTeam):
        async def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
            await super().publish(rewards, kept)
            raise WorkerDiedError("rank 1 died while it had to publish")

    team = DyingLast(0)
    play(team, small("run.rounds=1"))
    assert team.restarts == 1
    assert team.used == list(range(16))


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


def test_a_prompt_that_no_sampler_survives_is_skipped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    team, plan = LocalTeam(0), small("run.rounds=1", "gallery.segment=20")
    bad = plan.gallery_prompts[23]
    team.deadly = frozenset({bad.id})
    play(team, plan)
    assert team.set_aside == {f"{model}-00001": (3,) for model in plan.config.gallery.members}
    assert caplog.text.count("skipped prompt") == 3
    assert repr(bad.text) in caplog.text


def test_more_deadly_prompts_than_may_be_skipped_end_the_run() -> None:
    team, plan = LocalTeam(0), small("run.rounds=1", "actors.max_skipped_prompts=2")
    team.deadly = frozenset(prompt.id for prompt in plan.gallery_prompts[:3])
    with pytest.raises(
        WorkerDiedError, match="prompt number 3 that no sampler survives, and actors.max_skipped_prompts is 2"
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
