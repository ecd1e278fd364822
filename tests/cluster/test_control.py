"""What a control changes of a run, and what it leaves."""

from dataclasses import replace

from cluster.control import control_of
from itercomp_rl.config.load import load_config


def test_a_control_learns_no_preference_is_stopped_by_nothing_and_is_else_the_run() -> None:
    config = load_config("quickstart", ["policy.reward_updates_first=50", "reward.rankings_first=2"])
    control = control_of(config)
    assert control.run.name == f"{config.run.name}-control"
    assert (control.reward.updates, control.reward.min_accuracy, control.evaluation.max_drop) == (0, 0.0, None)
    # Nothing waits for reward models that are never on their way.
    assert (control.reward.rankings_first, control.policy.reward_updates_first) == ("all", "all")
    assert config == replace(
        control, run=config.run, reward=config.reward, policy=config.policy, evaluation=config.evaluation
    )
    assert replace(control.evaluation, max_drop=config.evaluation.max_drop) == config.evaluation
