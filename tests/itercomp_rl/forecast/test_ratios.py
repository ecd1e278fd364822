"""The best ratio: as good as trying every one."""

from functools import cache
from itertools import product

import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.forecast.ratios import best_ratio, counts_of, with_counts, work_of
from itercomp_rl.forecast.simulation import LightPlan, simulate
from itercomp_rl.forecast.stage_times import StageTimes
from tests.itercomp_rl.forecast.test_simulation import alone, small

DEVICES = 8
TIMES = [
    StageTimes(draw_image_s={"default": 0.1}, rank_image_s=0.001, roll_s=9, learn_rollout_s=1),
    StageTimes(draw_image_s={"default": 2}, rank_image_s=0.5, roll_s=1, learn_rollout_s=1),
    StageTimes(draw_image_s={"default": 0.1}, roll_s=2, learn_rollout_s=9, reward_update_s=9),
]


@cache
def plan_of(lag: int) -> LightPlan:
    return LightPlan(config=small(f"policy.max_policy_lag={lag}", "policy.batch=16", "gallery.segment=10"))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("lag", [0, 2])
def test_it_is_as_fast_as_the_best_of_all_ratios(times: StageTimes, lag: int) -> None:
    plan = plan_of(lag)
    config, forecast = best_ratio(plan, times, DEVICES, alone)
    assert sum(counts_of(config).values()) <= DEVICES
    every = []
    for samplers, judges, rollers, rewards, ranks in product(
        range(1, 5), range(1, 5), range(1, 5), (1, 2, 3), (1, 2, 4)
    ):
        if samplers + judges + rollers + rewards + ranks != DEVICES:
            continue
        counts = {
            "samplers": samplers,
            "judges": judges,
            "rollers": rollers,
            "reward_learners": rewards,
            "policy_learners": ranks,
        }
        every.append(simulate(plan, times, alone(with_counts(plan.config, counts))).seconds)
    assert len(every) > 20
    assert forecast.seconds <= 1.05 * min(every)


def test_the_reckoning_is_never_above_the_simulation() -> None:
    for times, lag in product(TIMES, (0, 2)):
        plan = plan_of(lag)
        least, counts = work_of(plan, times), counts_of(plan.config)
        seconds = simulate(plan, times, alone(plan.config)).seconds
        assert least.overlapped_seconds(counts) <= least.seconds(counts) <= seconds + 1e-6


def test_what_does_not_fit_is_never_chosen() -> None:
    def few_rollers(config: object) -> dict[str, list[str]] | None:
        held = alone(config)  # type: ignore[arg-type]  # a Config
        return held if sum(label.startswith("roller") for label in held) <= 2 else None

    config, _ = best_ratio(plan_of(0), TIMES[0], DEVICES, few_rollers)
    assert config.actors.rollers.count == 2
    with pytest.raises(ConfigError, match="no counts of actors fit 8 devices"):
        best_ratio(plan_of(0), TIMES[0], DEVICES, lambda _: None)
