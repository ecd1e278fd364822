"""Predictions: exact where a hand can work them out, never better than work and stages allow, and true to the lag."""

import random

import pytest

from cluster.placement import role_names, workers
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.forecast.ratios import with_counts
from itercomp_rl.forecast.simulation import LightPlan, simulate
from itercomp_rl.forecast.stage_times import StageTimes

ROLES = {"sampler": "samplers", "judge": "judges", "roller": "rollers", "policy_learner": "policy_learners"}


def small(*overrides: str) -> Config:
    base = [
        "actors.layout=separate",
        "run.rounds=1",
        "policy.updates=4",
        "policy.batch=8",
        "policy.rollout_batch=4",
        "evaluation.denoising_images=0",
        "evaluation.seen_images_per_aspect=0",
        "actors.samplers.count=1",
        "actors.rollers.count=1",
        "actors.reward_learners.count=1",
        "actors.policy_learners.count=1",
    ]
    return load_config("tiny", [*base, *overrides])


def alone(config: Config) -> dict[str, list[str]]:
    """Every member in a process of its own, aspects dealt to the reward learners."""
    actors = config.actors
    found = {f"{kind}-{i}": [f"{kind}-{i}"] for kind, name in ROLES.items() for i in range(getattr(actors, name).count)}
    learners = [f"reward_learner-{aspect}" for aspect in config.prompts.aspects]
    for i in range(actors.reward_learners.count):
        found[f"reward_learner-{i}"] = learners[i :: actors.reward_learners.count]
    return found


def held_out(plan: LightPlan) -> int:
    return sum(len(order.prompts) for order in plan.evaluation_orders(plan.policy(-1)))


def test_a_sequential_round_takes_what_a_hand_works_out() -> None:
    config = small("policy.max_policy_lag=0")
    plan = LightPlan(config=config)
    times = StageTimes(
        draw_image_s={"default": 1.0, "policy": 2.0},
        rank_image_s=0.1,
        reward_open_s=5,
        reward_update_s=2,
        reward_publish_s=1,
        roll_s=3,
        learn_rollout_s=1,
        learn_update_s=0.5,
        policy_open_s=4,
        policy_publish_s=2,
    )
    found = simulate(plan, times, alone(config))
    images = held_out(plan)
    seconds = {span.phase + str(i): span.ended - span.began for i, span in enumerate(found.phases)}
    assert seconds["evaluation0"] == pytest.approx(images * (2 + 2 * 1))  # the base, a member too, and two more
    # two segments of 30 prompts by three members: the second one's images are there at 180, ranked 90 images later
    assert seconds["gallery1"] == pytest.approx(180 + 9)
    assert seconds["rewards2"] == pytest.approx(3 * (5 + 6 * 2 + 1))  # three aspects in one process
    assert seconds["policy3"] == pytest.approx(4 + 4 * (2 * 3 + 2.5) + 2)  # roll two, learn, four times
    assert seconds["evaluation4"] == pytest.approx(images * 2)
    assert found.seconds == pytest.approx(sum(seconds.values()))
    assert found.round_s == (pytest.approx(found.seconds),)
    assert found.busy_s["roller"] == pytest.approx(4 * 2 * 3)


def test_a_pipeline_of_lag_one_takes_what_a_hand_works_out() -> None:
    # Two rollers, 3 s a rollout, 2.5 s an update of two. Rollouts 0, 1 end at 3; 2, 3 have slots and end at 6. The
    # first update ends at 5.5 and frees slots for 4, 5, which wait for the rollers until 6 and end at 9; 6, 7 at 12.
    config = small("policy.max_policy_lag=1", "actors.rollers.count=2")
    found = simulate(LightPlan(config=config), StageTimes(roll_s=3, learn_rollout_s=1.25), alone(config))
    assert found.phase_s("policy") == pytest.approx(12 + 2.5)
    assert found.max_lag == 1


def test_ranks_share_an_update_out_and_a_new_version_is_loaded_once_by_each_roller() -> None:
    config = small("policy.max_policy_lag=0", "actors.rollers.count=2", "actors.policy_learners.count=2")
    times = StageTimes(roll_s=3, load_s=1, learn_rollout_s=2, learn_update_s=1)
    found = simulate(LightPlan(config=config), times, alone(config))
    assert found.phase_s("policy") == pytest.approx(4 * ((3 + 1) + (2 + 1)))
    assert found.busy_s["policy_learner"] == pytest.approx(2 * 4 * 3)


def test_a_process_that_holds_two_roles_does_one_thing_at_a_time() -> None:
    config = small("policy.max_policy_lag=8")
    whole = {"shared-0": [name for names in alone(config).values() for name in names]}
    found = simulate(LightPlan(config=config), StageTimes(roll_s=3, learn_rollout_s=1), whole)
    assert found.phase_s("policy") == pytest.approx(4 * (2 * 3 + 2))
    assert found.process_busy_s["shared-0"] == pytest.approx(found.seconds)


def test_orders_pass_through_the_driver_one_after_another() -> None:
    config = small("actors.samplers.count=200")
    plan = LightPlan(config=config)
    found = simulate(plan, StageTimes(call_s=0.5), alone(config))
    assert found.seconds == pytest.approx(0.5 * found.num_orders)


def drawn_times(chance: random.Random) -> StageTimes:
    return StageTimes(
        draw_image_s={"default": chance.uniform(0.01, 1)},
        draw_order_s=chance.uniform(0, 5),
        rank_image_s=chance.uniform(0, 0.2),
        grade_image_s=chance.uniform(0, 0.2),
        reward_update_s=chance.uniform(0, 3),
        roll_s=chance.uniform(0.1, 9),
        learn_rollout_s=chance.uniform(0.1, 3),
        learn_update_s=chance.uniform(0, 2),
    )


def drawn_config(chance: random.Random) -> Config:
    counts = {name: chance.randint(1, 6) for name in ("samplers", "judges", "rollers")}
    return small(
        *(f"actors.{name}.count={num}" for name, num in counts.items()),
        f"actors.policy_learners.count={chance.choice([1, 2, 4])}",
        f"actors.reward_learners.count={chance.randint(1, 3)}",
        f"policy.max_policy_lag={chance.randint(0, 4)}",
        "policy.batch=16",
        f"policy.updates={chance.randint(1, 20)}",
        "run.rounds=2",
        "gallery.segment=15",
    )


@pytest.mark.parametrize("seed", range(8))
def test_no_prediction_beats_its_work_or_its_slowest_stage_and_the_lag_is_kept(seed: int) -> None:
    chance = random.Random(seed)
    config, times = drawn_config(chance), drawn_times(chance)
    plan = LightPlan(config=config)
    found = simulate(plan, times, alone(config))
    actors, policy = config.actors, config.policy
    rollouts = 2 * policy.updates * 4
    rolling = rollouts * times.roll_s / actors.rollers.count
    learning = 2 * policy.updates * times.update_s(4, actors.policy_learners.count)
    assert found.phase_s("policy") >= max(rolling, learning) - 1e-6
    if policy.max_policy_lag == 0:
        rounds_of_rollers = -(-4 // actors.rollers.count)
        assert found.phase_s("policy") == pytest.approx(
            learning + 2 * policy.updates * rounds_of_rollers * times.roll_s
        )
    segments = [order for r in range(2) for i in range(4) for order in plan.draw_orders(r, i)]
    drawing = sum(times.draw_s(order.model, len(order.prompts)) for order in segments) / actors.samplers.count
    assert found.phase_s("gallery") >= drawing - 1e-6
    assert all(0 <= share <= 1 + 1e-9 for share in found.utilisation.values())
    assert found.busy_s["roller"] == pytest.approx(rollouts * times.roll_s)
    assert sum(found.round_s) == pytest.approx(found.seconds)
    assert found.max_lag <= policy.max_policy_lag


@pytest.mark.parametrize("seed", [0, 1])
def test_more_members_of_a_role_never_take_longer(seed: int) -> None:
    chance = random.Random(seed)
    config, times = drawn_config(chance), drawn_times(chance)
    plan = LightPlan(config=config)
    numbers = {"policy_learners": (1, 2, 4), "reward_learners": (1, 2, 3)}
    for role in ("samplers", "judges", "rollers", "policy_learners", "reward_learners"):
        configs = [with_counts(config, {role: num}) for num in numbers.get(role, (1, 2, 3, 5, 9))]
        seconds = [simulate(plan, times, alone(more)).seconds for more in configs]
        assert seconds == sorted(seconds, reverse=True)
        assert role == "judges" or seconds[-1] < seconds[0]


def test_the_lag_that_is_allowed_is_reached_where_rollers_are_quick() -> None:
    for lag in (0, 1, 3):
        config = small(f"policy.max_policy_lag={lag}", "actors.rollers.count=9", "policy.updates=12")
        times = StageTimes(roll_s=0.1, learn_rollout_s=2)
        assert simulate(LightPlan(config=config), times, alone(config)).max_lag == lag


@pytest.mark.parametrize(("lag", "rollers"), [(0, 3), (1, 5), (4, 40)])
def test_a_phase_that_is_played_in_part_is_drawn_out_to_its_length(lag: int, rollers: int) -> None:
    config = small(
        f"policy.max_policy_lag={lag}", f"actors.rollers.count={rollers}", "policy.batch=64", "policy.updates=300"
    )
    plan, times = LightPlan(config=config), StageTimes(roll_s=3, load_s=0.5, learn_rollout_s=0.2, learn_update_s=1)
    whole = simulate(plan, times, alone(config))
    part = simulate(plan, times, alone(config), most_rollouts=600)
    assert (whole.played_updates, part.played_updates) == (300, 37)
    assert part.seconds == pytest.approx(whole.seconds, rel=0.01)
    for role, share in whole.utilisation.items():
        assert part.utilisation[role] == pytest.approx(share, abs=0.01)


def test_a_thousand_rollers_are_as_fast_as_their_work_allows() -> None:
    config = small(
        "policy.max_policy_lag=1",
        "actors.rollers.count=1024",
        "policy.rollout_batch=1",
        "policy.batch=1024",
        "policy.updates=500",
    )
    times = StageTimes(roll_s=10, learn_update_s=9)
    found = simulate(LightPlan(config=config), times, alone(config), most_rollouts=4000)
    assert found.phase_s("policy") / (500 * 10) == pytest.approx(1.0, abs=0.01)
    assert found.utilisation["roller"] > 0.98


def test_times_with_a_spread_follow_the_seed() -> None:
    config = small("policy.updates=20")
    plan, times = LightPlan(config=config), StageTimes(roll_s=3, learn_rollout_s=1, spread=0.5)
    one, same, other = (simulate(plan, times, alone(config), seed=seed).seconds for seed in (1, 1, 2))
    assert one == same != other
    assert one == pytest.approx(20 * (2 * 3 + 2), rel=0.2)


def test_with_autoscale_idle_rollers_draw_and_idle_samplers_roll() -> None:
    counts = ["actors.samplers.count=2", "actors.rollers.count=2", "gallery.segment=5", "policy.batch=32"]
    counts += ["policy.max_policy_lag=1", "policy.updates=12", "actors.policy_learners.count=1", "run.rounds=1"]
    times = StageTimes(draw_image_s={"default": 1.0}, roll_s=10, learn_rollout_s=0.1)
    own, moved = small(*counts), small(*counts, "actors.autoscale=true")
    processes = role_names(workers(moved))
    before, after = (
        simulate(LightPlan(config=config), times, held) for config, held in ((own, alone(own)), (moved, processes))
    )
    # One process is kept for the other role: three of four draw, and three of four roll, where two did.
    assert after.phase_s("gallery") / before.phase_s("gallery") == pytest.approx(2 / 3, rel=0.05)
    assert after.phase_s("policy") / before.phase_s("policy") == pytest.approx(2 / 3, rel=0.05)
    assert after.max_lag == before.max_lag == 1
