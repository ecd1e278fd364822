"""A policy climbs frozen rewards beside the learned ones, in units of the round's gallery."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from itercomp_rl.config.schema import Config
from itercomp_rl.errors import DivergedError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import PolicyOrder, Prompt
from itercomp_rl.judges.reward import RewardScorer
from itercomp_rl.ranking.pretraining_images import load_pretraining_images
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.store import weights
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import POLICY
from itercomp_rl.store.store import Store
from tests.learners.test_policy import CPU, opened, order, rolled, settings
from tests.parts.checkpoints import make_sd
from tests.parts.judge_checkpoints import make_clip
from tests.parts.rank_store import make_rank_store, put_rankings

BRIGHT = "python:tests.parts.custom_scorers:Brightness"
TERM = "policy.frozen_rewards.extra"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A gallery of three models, and one learned reward model."""
    store, prompts = make_rank_store(tmp_path_factory.mktemp("store").as_uri())
    put_rankings(store, prompts)
    trunk = load_reward(Path(checkpoint_path("embedded:conv_trunk")))
    weights.publish(store, "reward-attribute", 0, trunk.state_dict(), {})
    return store


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"pickscore:{make_clip(tmp_path_factory.mktemp('clip') / 'clip')}"


def chosen(sd: Path, *overrides: str) -> Config:
    return settings(
        *(sd, "reward.trunk=embedded:conv_trunk", "policy.target=50", "policy.engine.lr=1e-3", "policy.updates=4"),
        *overrides,
    )


def work(number: int, *, learned: float) -> PolicyOrder:
    """learned: weight of the learned reward model."""
    one = order(number)
    rewards = {"attribute": replace(one.rewards["attribute"], weight=learned)}
    return replace(one, round=number, rewards=rewards, rankings=("r000-00000",))


def first_norm(config: Config, store: Store, number: int, folder: Path, *, learned: float) -> dict[str, float]:
    learner = opened(config, store, work(number, learned=learned), folder)
    return learner.update(0, [rolled(config, store, 0, 0, number)])


def test_the_loss_is_that_of_the_learned_and_the_frozen_terms_by_their_weights(
    sd: Path, store: Store, clip: str, tmp_path: Path
) -> None:
    plain = chosen(sd)
    mixed = chosen(sd, f"{TERM}.source={clip}", f"{TERM}.weight=0.5", f"{TERM}.target=7")
    alone = first_norm(plain, store, 300, tmp_path / "a", learned=1)
    frozen = first_norm(mixed, store, 301, tmp_path / "b", learned=0)
    both = first_norm(mixed, store, 302, tmp_path / "c", learned=1)
    assert both["refl_loss"] == pytest.approx(alone["refl_loss"] + frozen["refl_loss"], rel=1e-4)
    assert frozen["refl_loss"] == pytest.approx(0.5 * (7 - frozen["reward_extra"]), rel=1e-4)
    assert "reward_attribute" not in frozen, "a learned reward of weight 0 is left out"
    assert frozen["grad_norm"] > 0


@pytest.mark.parametrize(("name", "number"), [("clip", 310), ("python", 320)])
def test_the_policy_climbs_it(name: str, number: int, sd: Path, store: Store, clip: str, tmp_path: Path) -> None:
    config = chosen(sd, f"{TERM}.source={clip if name == 'clip' else BRIGHT}", "policy.engine.ema=0")
    learner = opened(config, store, work(number, learned=0), tmp_path)
    rollout = rolled(config, store, 0, 0, number)
    found = [learner.update(i, [rollout])["reward_extra"] for i in range(4)]
    assert found[-1] > found[0]


def test_its_unit_is_the_spread_of_the_rounds_gallery(sd: Path, store: Store, clip: str, tmp_path: Path) -> None:
    config = chosen(sd, f"{TERM}.source={clip}")
    learner = opened(config, store, work(330, learned=1), tmp_path)
    learner.update(0, [rolled(config, store, 0, 0, 330)])
    learner.publish({})
    said = weights.open_version(store, POLICY, 330).attrs["frozen_rewards"]["extra"]
    gallery = load_pretraining_images(store, ["r000-00000"])
    images = ImageReader(store).load([ref for _, ref in gallery])
    prompts = [Prompt(id="p", text=prompt.text) for prompt, _ in gallery]
    scores = [found["attribute"].value for found in RewardScorer({"attribute": clip}, CPU).score(prompts, images)]
    assert said["mean"] == pytest.approx(np.mean(scores), rel=1e-4)
    assert said["std"] == pytest.approx(np.std(scores, ddof=1), rel=1e-3)
    assert said["source"] == clip


def test_without_any_reward_and_without_a_regulariser_there_is_nothing_to_learn(
    sd: Path, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match="nothing to learn from"):
        opened(chosen(sd), store, work(342, learned=0), tmp_path)
