"""What a run plans: which reward models place the newcomers."""

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
