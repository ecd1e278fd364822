"""Who runs where, and the refusal of what cannot be placed."""

import pytest

from cluster.placement import check_room, workers
from itercomp_rl.config import load_config
from itercomp_rl.errors import ConfigError


def test_shared_layout_deals_every_role_over_the_processes() -> None:
    config = load_config("quickstart")
    found = workers(config)
    assert [spec.label for spec in found] == ["shared-0", "shared-1"]
    names = [role.name for spec in found for role in spec.roles]
    assert len(names) == len(set(names)) == 2 + 2 + 2 + 2 + 3
    for spec in found:
        assert sum(role.kind == "policy_learner" for role in spec.roles) == 1


def test_separate_layout_gives_each_member_a_process_of_its_own() -> None:
    config = load_config("quickstart", ["actors.layout=separate", "actors.samplers.count=5"])
    found = workers(config)
    assert sum(spec.label.startswith("sampler") for spec in found) == 5
    rewards = [role.name for spec in found for role in spec.roles if role.kind == "reward_learner"]
    assert sorted(rewards) == [f"reward_learner-{a}" for a in ("attribute", "non_spatial", "spatial")]
    assert sum(spec.label.startswith("reward_learner") for spec in found) == 2  # three aspects dealt to two


def test_a_cluster_too_small_is_refused_with_what_is_short() -> None:
    config = load_config("quickstart", ["actors.layout=separate", "actors.rollers.gpus=1"])
    with pytest.raises(ConfigError) as caught:
        check_room(workers(config), {"CPU": 2.0})
    assert "GPU: 2 needed, 0 in the cluster" in str(caught.value)
    assert "CPU: 10 needed, 2 in the cluster" in str(caught.value)


def test_a_cluster_with_room_is_accepted() -> None:
    check_room(workers(load_config("quickstart")), {"CPU": 2.0})
