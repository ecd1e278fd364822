"""Probes against a team of small local objects with random timings: what is graded and kept, and when a round ends."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.items import ProbeOrder
from itercomp_rl.loop.probes import best_update, is_patience_over
from itercomp_rl.plan import Plan
from tests.parts.local_team import LocalTeam, play, small

SCORES = st.dictionaries(st.integers(0, 50), st.integers(-3, 3).map(float), min_size=1)
RISES_TO_4 = {0: 0.1, 2: 0.2, 4: 0.5, 6: 0.4, 8: 0.3}


def probed(*overrides: str) -> Plan:
    return small("evaluation.probe_every=2", *overrides)


def played(seed: int, plan: Plan, scores: dict[int, float], **settings: int) -> LocalTeam:
    team = LocalTeam(seed, **settings)
    team.probe_score = scores.__getitem__
    play(team, plan)
    return team


@given(scores=SCORES)
def test_the_best_update_has_the_highest_score_and_is_the_first_that_has(scores: dict[int, float]) -> None:
    best = best_update(scores)
    assert scores[best] == max(scores.values())
    assert all(score < scores[best] for update, score in scores.items() if update < best)


@given(scores=SCORES, patience=st.integers(1, 5))
def test_patience_is_over_once_so_many_probes_followed_the_best(scores: dict[int, float], patience: int) -> None:
    later = [update for update in scores if update > best_update(scores)]
    assert is_patience_over(scores, patience) == (len(later) >= patience)


def test_without_probes_none_is_drawn_and_the_last_average_is_published() -> None:
    team = LocalTeam(0)
    play(team, small())
    assert team.kept == [None, None]
    assert not [event for event in team.events if "probe" in event]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_every_round_is_probed_at_fixed_updates_and_publishes_what_the_config_says(keep: str) -> None:
    for seed in range(5):
        team = played(seed, probed(f"evaluation.keep={keep}"), RISES_TO_4)
        graded = {event for event in team.events if event.startswith("probe")}
        assert sorted(graded) == [f"probe {round_} {update}" for round_ in (0, 1) for update in (0, 2, 4, 6, 8)]
        assert team.probed == [0, 2, 4, 6, 8] * 2, "reported in another order than that of the updates"
        assert team.kept == ([4, 4] if keep == "best" else [None, None])
        assert team.used == [*range(16), *range(16)]


def test_the_learner_goes_on_while_a_probe_is_drawn_and_graded() -> None:
    class SlowJudge(LocalTeam):
        async def grade_probe(self, order: ProbeOrder) -> None:
            for _ in range(200):
                await asyncio.sleep(0)
            await super().grade_probe(order)

    team = SlowJudge(0)
    team.probe_score = RISES_TO_4.__getitem__
    play(team, probed("run.rounds=1"))
    assert team.events.index("update 7") < team.events.index("probe 0 2")
    assert max(i for i, event in enumerate(team.events) if event == "probe 0 8") < team.events.index("policy 0")


@pytest.mark.parametrize("max_lag", [0, 2])
@pytest.mark.parametrize(
    ("patience", "scores", "end"),
    [
        (1, RISES_TO_4, 8),  # 6 is no new best, which is known at 8
        (1, {0: 0.5, 2: 0.4, 4: 0.9}, 4),  # 2 is none, which is known at 4
        (2, {0: 0.5, 2: 0.4, 4: 0.5, 6: 0.9}, 6),  # an equal score is no new best
        (2, RISES_TO_4, 8),
    ],
)
def test_a_round_ends_one_probe_after_its_patience_is_over_however_fast_probes_are_graded(
    patience: int, scores: dict[int, float], end: int, max_lag: int
) -> None:
    plan = probed(f"policy.patience={patience}", "evaluation.keep=best", f"policy.max_policy_lag={max_lag}")
    for seed in range(5):
        team = played(seed, plan, scores)
        assert team.used == [*range(2 * end)] * 2
        assert team.probed == [update for update in sorted(scores) if update <= end] * 2
        assert team.kept == [max(scores, key=scores.__getitem__)] * 2
        assert max(team.lags) <= max_lag


def test_a_round_resumed_where_its_patience_is_over_makes_no_update_more() -> None:
    plan = probed("policy.patience=1", "run.rounds=1")
    team = played(0, plan, {0: 0.5, 2: 0.4, 4: 0.9}, resumed_at=4)
    assert team.used == []
    assert team.probed == [0, 2, 4]
    assert team.policies == {0}


def test_probes_are_graded_once_though_a_rank_dies_and_its_round_is_begun_again() -> None:
    team = played(1, probed("evaluation.keep=best", "run.rounds=1"), RISES_TO_4, deaths=2)
    assert team.restarts == 2
    assert team.kept == [4]
    assert team.probed == [0, 2, 4, 6, 8]


def test_probes_of_a_policy_that_learns_beside_its_rewards_are_scored_by_models_that_are_held() -> None:
    plan = probed("policy.reward_updates_first=5", "policy.max_policy_lag=1", "evaluation.keep=best")
    for seed in range(5):
        team = played(seed, plan, RISES_TO_4)
        assert team.kept == [4, 4]
        held = [report for (use, _), report in team.held.items() if use.startswith("probe")]
        assert all(report.live_role is None for report in held), "held for longer than the round"


def test_a_prompt_that_no_sampler_survives_is_left_out_of_its_probe() -> None:
    team, plan = LocalTeam(0), probed("run.rounds=1")
    team.deadly = frozenset({plan.probe_prompts[4][0].id})
    play(team, small("evaluation.probe_every=2", "run.rounds=1", "actors.max_skipped_prompts=20"))
    skipped = {rows for id_, rows in team.set_aside.items() if "-u0000" in id_}
    assert skipped == {(4, 5)}
