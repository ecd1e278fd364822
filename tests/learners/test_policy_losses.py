"""What a policy learner's losses are made of, with a real gallery: the base held to, aspects projected and measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from itercomp_rl.config.schema import Config
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import PolicyOrder, Rollout
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store
from learners.policy import PolicyLearner
from tests.learners.test_policy import opened, order, rolled, settings
from tests.parts.checkpoints import make_sd
from tests.parts.rank_store import make_rank_store, put_rankings

ASPECTS = ("attribute", "spatial")
ALL_WEIGHTS, ADAPTER = "policy.lora.rank=0", "policy.lora.rank=2"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A gallery of three models, and two reward models that disagree."""
    store, prompts = make_rank_store(tmp_path_factory.mktemp("store").as_uri())
    put_rankings(store, prompts)
    for aspect, name, sign in (("attribute", "conv_trunk", 1), ("spatial", "generic_trunk", -1)):
        state = load_reward(Path(checkpoint_path(f"embedded:{name}"))).state_dict()
        weights.publish(store, f"reward-{aspect}", 0, state | {"reward_std": sign * state["reward_std"]}, {})
    return store


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


def chosen(sd: Path, *overrides: str) -> Config:
    return settings(
        sd, "reward.trunk=embedded:conv_trunk", "policy.pretraining_batch=2", "policy.engine.lr=1e-3", *overrides
    )


def work(number: int, round_: int = 0, start: int | None = None) -> PolicyOrder:
    one = order(number, round_, start)
    rewards = {aspect: replace(one.rewards["attribute"], aspect=aspect) for aspect in ASPECTS}
    return replace(one, rewards=rewards, rankings=("r000-00000",))


def about_both(rollout: Rollout) -> Rollout:
    return replace(rollout, prompts=tuple(replace(prompt, aspects=ASPECTS) for prompt in rollout.prompts))


def updates(learner: PolicyLearner, rollouts: Sequence[Rollout]) -> list[dict[str, float]]:
    return [learner.update(number, [rollout]) for number, rollout in enumerate(rollouts)]


@pytest.mark.parametrize(("width", "number"), [(ALL_WEIGHTS, 100), (ADAPTER, 110)])
def test_every_round_is_held_near_the_checkpoint_and_not_near_where_it_began(
    width: str, number: int, sd: Path, store: Store, tmp_path: Path
) -> None:
    config = chosen(sd, width, "policy.stay_near_base=0.5", "policy.engine.ema=0", "policy.updates=2")
    first = opened(config, store, work(number, round_=number), tmp_path)
    rollouts = [about_both(rolled(config, store, index, 0, number)) for index in range(2)]
    found = updates(first, rollouts)
    assert found[0]["base_distance"] == 0, "nothing is learned yet"
    assert found[1]["base_distance"] > 0
    assert "denoising_loss" not in found[0], "its weight is 0"
    first.publish({})
    second = opened(config, store, work(number + 1, round_=number + 1, start=number), tmp_path)
    assert second.update(0, rollouts[:1])["base_distance"] > found[1]["base_distance"] / 2


@pytest.mark.parametrize(("width", "number"), [(ALL_WEIGHTS, 120), (ADAPTER, 130)])
def test_a_policy_held_harder_stays_nearer(width: str, number: int, sd: Path, store: Store, tmp_path: Path) -> None:
    distances = []
    for i, weight in enumerate(("1e-6", "100")):
        config = chosen(sd, width, f"policy.stay_near_base={weight}", "policy.caption_dropout=0.5", "policy.updates=4")
        learner = opened(config, store, work(number + i), tmp_path / weight)
        rollouts = [about_both(rolled(config, store, index, 0, number + i)) for index in range(4)]
        distances.append(updates(learner, rollouts)[-1]["base_distance"])
    assert 0 < distances[1] < 0.9 * distances[0]


def test_gradients_are_measured_every_so_many_updates_and_change_nothing(
    sd: Path, store: Store, tmp_path: Path
) -> None:
    found, learned = [], []
    for number, every in ((140, 0), (141, 2)):
        often = (f"policy.gradient_metrics_every={every}", "policy.updates=3", "policy.points_per_rollout=2")
        config = chosen(sd, *often, "policy.target=50")  # both aspects pull
        learner = opened(config, store, work(number), tmp_path / str(every))
        rollouts = [about_both(rolled(config, store, index, 0, 140)) for index in range(3)]
        found.append(updates(learner, rollouts))
        learned.append(weights.open_version(store, f"live-{number}", 3).load())
    assert all(torch.equal(learned[0][name], tensor) for name, tensor in learned[1].items())
    new = {
        *(f"image_gradient_norm_{aspect}" for aspect in ASPECTS),
        *("image_gradient_cosine_attribute_spatial", "clamped_share"),
    }
    assert [new & set(metrics) for metrics in found[1]] == [new, set(), new]
    assert not any(new & set(metrics) for metrics in found[0])
    assert -1 <= found[1][0]["image_gradient_cosine_attribute_spatial"] <= 1
    assert all(found[1][0][f"image_gradient_norm_{aspect}"] > 0 for aspect in ASPECTS)


def test_conflicts_taken_out_change_the_gradient_and_come_again_with_the_seed(
    sd: Path, store: Store, tmp_path: Path
) -> None:
    norms = []
    for number, how in ((150, "sum"), (151, "project_by_image"), (152, "project_by_image")):
        config = chosen(sd, f"policy.aspect_gradients={how}", "policy.gradient_metrics_every=1", "policy.target=50")
        learner = opened(config, store, work(number), tmp_path / str(number))
        (metrics,) = updates(learner, [about_both(rolled(config, store, 0, 0, 150))])
        assert metrics["image_gradient_cosine_attribute_spatial"] < 0, "these two aspects must conflict"
        norms.append(metrics["grad_norm"])
    assert norms[1] == norms[2] > 0
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)
