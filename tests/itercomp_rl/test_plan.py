"""What a run plans: which reward models place the newcomers, which prompts rollouts meet."""

import pytest

from itercomp_rl.config import load_config
from itercomp_rl.plan import Plan


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
