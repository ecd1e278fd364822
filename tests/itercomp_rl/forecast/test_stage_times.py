"""Stage times: what a file may say, and what a run that was made says."""

import json
from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.forecast.stage_times import StageTimes, load_times, measured_times
from itercomp_rl.items import RewardOrder
from itercomp_rl.observability.work_times import FILE, WorkTimes, load_work
from itercomp_rl.plan import Plan


def test_a_file_states_seconds_and_one_number_serves_all_members(tmp_path: Path) -> None:
    file = tmp_path / "times.yaml"
    file.write_text("draw_image_s: 2\nroll_s: 3.5\n")
    times = load_times(file)
    plan = Plan(config=load_config("tiny"))
    assert times.roll_s == 3.5
    assert times.draw_s(plan.policy(-1), 10) == 20
    file.write_text("draw_image_s: {default: 1, policy: 4, spatial: 2}\ndraw_order_s: 0.5\n")
    times = load_times(file)
    found = {model.name: times.draw_s(model, 10) for model in [*plan.founders(0), plan.policy(-1), plan.policy(0)]}
    assert found == {"base": 10.5, "attribute": 10.5, "spatial": 20.5, "base policy": 40.5, "policy-0": 40.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rol_s: 3", "unknown key rol_s; did you mean roll_s?"),
        ("roll_s: fast", "roll_s is 'fast': must be seconds"),
        ("roll_s: {a: 1}", "must be seconds"),
        ("roll_s: -1", "roll_s is -1: must be 0 or more"),
        ("draw_image_s: {a: -2}", "draw_image_s is -2"),
        ("spread: 2", "spread is 2: must be from 0 to 1"),
        ("- 1", "must be a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "times.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_times(tmp_path / "times.yaml")
    assert reason in str(caught.value)


def test_what_a_run_counted_gives_its_mean_times(tmp_path: Path) -> None:
    plan = Plan(config=load_config("tiny"))
    draw, rank = plan.draw_orders(0, 0), plan.rank_order(0, 0)
    order = RewardOrder(aspect="spatial", round=0, version=0, start_version=None, rankings=())
    work = WorkTimes()
    work.add("sampler", "draw", (draw[0],), 60.0)  # 30 images
    work.add("sampler", "draw", (draw[0],), 120.0)
    work.add("sampler", "draw", (draw[1],), 30.0)
    work.add("judge", "rank", (rank,), 9.0)  # 30 prompts of three models
    work.add("judge", "grade", ("test-0",), 6.0)
    work.add("reward_learner", "open", (order,), 5.0)
    work.add("reward_learner", "advance", (10,), 20.0)
    work.add("roller", "roll", (plan.rollout_order(0, 0, ("live", 0)),), 4.0)
    work.add("policy_learner", "update", (0, [None], 2), 3.0)  # one of two ranks
    work.save(tmp_path / FILE)
    times = measured_times(tmp_path, plan)
    assert times.draw_image_s == {"default": 210 / 90, "base": 3.0, "attribute": 1.0}
    assert times.rank_image_s == pytest.approx(0.1)
    assert (times.reward_open_s, times.reward_update_s, times.roll_s) == (5.0, 2.0, 4.0)
    assert times.update_s(2, 2) == pytest.approx(3.0)
    segments = plan.evaluation_orders(plan.policy(-1))
    assert times.grade_image_s * sum(len(s.prompts) for s in segments) == pytest.approx(6.0 * len(segments))


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    first = WorkTimes()
    first.add("roller", "roll", (None,), 2.0)
    first.save(tmp_path / FILE)
    again = load_work(tmp_path)
    process = WorkTimes()
    process.add("roller", "roll", (None,), 4.0)
    again.join(process.take())
    again.join(process.take())  # nothing twice
    again.save(tmp_path / FILE)
    assert json.loads((tmp_path / FILE).read_text()) == {"roller.roll": {"calls": 2, "items": 2, "seconds": 6.0}}


def test_a_run_that_has_measured_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has measured no draws and updates"):
        measured_times(tmp_path, Plan(config=load_config("tiny")))
    assert StageTimes().roll_s == 0
