"""What a run plans: which reward models place the newcomers, which prompts rollouts meet."""

from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.plan import Plan

JUDGES = ["judge.first_round=reward", "evaluation.judge=reward", "evaluation.allow_self_grading=true"]
FILES = ["prompts.source=files", *JUDGES]


def test_every_policy_is_measured_on_the_same_pictures_and_no_gallery_model_is() -> None:
    plan = Plan(config=load_config("tiny"))
    found = [plan.measure_orders(model) for model in plan.policies()]
    assert [len(orders) for orders in found] == [1] * (plan.rounds + 1)
    assert len({(orders[0].prompts, orders[0].seeds) for orders in found}) == 1
    assert len(found[0][0].prompts) == plan.config.evaluation.denoising_images
    assert [order for model in plan.founders(0) for order in plan.measure_orders(model)] == []


def test_prompts_of_files_are_measured_on_what_the_founders_drew_of_them(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\n".join(f"a cat number {i}" for i in range(60)))
    (tmp_path / "test.txt").write_text("\n".join(f"a dog number {i}" for i in range(40)))
    files = [f"prompts.train_file={tmp_path / 'train.txt'}", f"prompts.test_file={tmp_path / 'test.txt'}"]
    sizes = ["evaluation.images_per_aspect=40", "evaluation.denoising_images=35"]
    plan = Plan(config=load_config("tiny", [*FILES, *files, *sizes]))
    (order,) = plan.measure_orders(plan.policy(0))
    segments = {o.id: o for founder in plan.founders(0) for o in plan.evaluation_orders(founder)}
    assert len(order.images) == 35
    for i, (prompt, ref) in enumerate(zip(order.prompts, order.images, strict=True)):
        assert segments[ref.segment].prompts[ref.row] == prompt
        founder = plan.founders(0)[i % len(plan.founders(0))]
        assert segments[ref.segment].model == (plan.policy(-1) if founder.name == "base" else founder)


def test_what_two_models_would_draw_alike_is_drawn_and_graded_once() -> None:
    plan = Plan(config=load_config("quickstart"))
    base, member = plan.policy(-1), plan.member("base")
    assert plan.evaluation_orders(member) == plan.evaluation_orders(base)
    other = plan.member("generalist")
    for split, models in (("test", [base, member, other]), ("train", [base, member])):
        ids = [order.id for order in plan.grading_orders(models) if order.id.startswith(split)]
        assert len(ids) == len(set(ids)) == sum(len(plan.evaluation_orders(m, split)) for m in (base, other))
    assert plan.evaluation_orders(other, "train") == []
    slower = Plan(config=load_config("quickstart", ["gallery.members.base.num_steps=20"]))
    assert slower.evaluation_orders(slower.member("base")) != slower.evaluation_orders(base)


@pytest.mark.parametrize("refresh", [True, False])
def test_newcomers_are_placed_by_reward_models_that_an_earlier_round_published(refresh: bool) -> None:
    plan = Plan(config=load_config("tiny", ["run.rounds=4", f"reward.refresh={str(refresh).lower()}"]))
    published = [plan.reward_version(round_) for round_ in range(plan.rounds)]
    for round_ in range(1, plan.rounds):
        assert plan.rank_order(round_, 0).reward_version == published[round_ - 1]
    assert published == ([0, 1, 2, 3] if refresh else [0, 0, 0, 0])


@pytest.mark.parametrize("updates", [3, 1000])
def test_rollouts_meet_the_prompts_that_were_to_be_encoded_and_no_other(updates: int) -> None:
    plan = Plan(config=load_config("tiny", [f"policy.updates={updates}", "prompts.policy=150"]))
    num = 3 * plan.rollouts_per_update
    met = {
        p.text for r in range(plan.rounds) for i in range(num) for p in plan.rollout_order(r, i, ("live", 0)).prompts
    }
    assert len(set(plan.rolled_prompts)) == len(plan.rolled_prompts)
    if updates == 3:
        assert met == set(plan.rolled_prompts)
    else:
        assert met < set(plan.rolled_prompts) == {prompt.text for prompt in plan.policy_prompts}


def test_the_full_world_has_the_prompts_that_its_config_asks_for() -> None:
    plan = Plan(config=load_config("shapes_full"))
    world = plan.config.prompts.world
    assert (len(world.colours), len(world.shapes), len(world.relations)) == (6, 4, 8)
    assert len({prompt.text for prompt in plan.gallery_prompts}) == plan.config.prompts.gallery
    assert len({prompt.text for prompt in plan.policy_prompts}) == plan.config.prompts.policy
    images = [prompt for order in plan.evaluation_orders(plan.policy(0)) for prompt in order.prompts]
    assert all(sum(aspect in p.aspects for p in images) >= 400 for aspect in plan.config.prompts.aspects)
    seen = {p.text for order in plan.evaluation_orders(plan.policy(0), "train") for p in order.prompts}
    assert seen
    assert seen.isdisjoint(prompt.text for prompt in images)


def test_probes_change_no_prompt_or_seed_that_the_world_is_trained_or_tested_with() -> None:
    off = Plan(config=load_config("quickstart"))
    on = Plan(config=load_config("quickstart", ["evaluation.probe_every=20"]))
    assert (on.gallery_prompts, on.policy_prompts) == (off.gallery_prompts, off.policy_prompts)
    assert on.grading_orders(on.evaluated()) == off.grading_orders(off.evaluated())
    assert off.probe_updates == ()
    assert on.probe_updates == (0, 20, 40)


@pytest.mark.parametrize(("every", "updates"), [(3, (0, 3, 6, 8)), (8, (0, 8)), (50, (0, 8))])
def test_a_round_is_probed_at_its_begin_its_end_and_between(every: int, updates: tuple[int, ...]) -> None:
    plan = Plan(config=load_config("tiny", ["policy.updates=8", f"evaluation.probe_every={every}"]))
    assert plan.probe_updates == updates


def test_every_probe_draws_the_same_prompts_with_the_same_seeds_and_splits_no_prompt() -> None:
    plan = Plan(config=load_config("tiny", ["evaluation.probe_every=2", "gallery.segment=25"]))
    found = [plan.probe_orders(round_, update) for round_ in range(2) for update in plan.probe_updates]
    assert len({tuple((order.prompts, order.seeds) for order in orders) for orders in found}) == 1
    ids = [order.id for orders in found for order in orders]
    assert len(set(ids)) == len(ids) == 4 * len(found)
    assert sum(len(order.prompts) for order in found[0]) == plan.config.evaluation.probe_images
    assert all(order.prompts[::2] == order.prompts[1::2] for order in found[0])
    assert {(order.model.role, order.model.version) for order in found[-1]} == {("live-average-r001", 4)}
