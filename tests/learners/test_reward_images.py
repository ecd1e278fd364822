"""The reward learner on rankings of a real store: images of any size, and gradients that accumulate."""

import pathlib

import numpy as np
import pytest
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.items import ImageRef, Prompt, RankOrder, RewardOrder
from itercomp_rl.prompts import prompt_id
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.ranking.records import Judged, rankings_attrs
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store
from learners.reward import RewardLearner

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 prompts drawn by two models, one at 32 px and one at 48 x 40; the first is always better."""
    store = open_store(tmp_path_factory.mktemp("store").as_uri(), create=True)
    rng = np.random.default_rng(0)
    texts = [f"a red circle left of a blue square {i}" for i in range(40)]
    prompts = tuple(Prompt(id=prompt_id(text), text=text) for text in texts)
    for model, shape in (("good", (32, 32)), ("bad", (48, 40))):
        images = rng.integers(0, 256, (40, *shape, 3), dtype=np.uint8)
        if model == "good":
            images //= 4  # darker: there is something to learn
        store.put("images", f"{model}-00000", {"images": images, "seeds": np.arange(40)}, {"round": 0})
    order = RankOrder(
        id="r000-00000",
        round=0,
        prompts=prompts,
        images=tuple(
            {model: ImageRef(segment=f"{model}-00000", row=row) for model in ("good", "bad")} for row in range(40)
        ),
    )
    judged = [
        {
            "attribute": Judged(
                ranking=Ranking(prompt_id=prompt.id, aspect="attribute", places=[["good"], ["bad"]]),
                scores={"good": 1.0, "bad": 0.0},
            )
        }
        for prompt in prompts
    ]
    store.put("rankings", order.id, {}, rankings_attrs(order, judged))
    return store


NO_CHECKPOINTS = pathlib.Path("/nonexistent")  # so few updates make none


def learner(store: Store, *overrides: str) -> RewardLearner:
    config: Config = load_config("tiny", ["reward.noise=0", "reward.engine.grad_clip=1e9", *overrides])
    made = RewardLearner(store, config.reward, config.judge, NO_CHECKPOINTS, config.run.seed, CPU)
    made.open(RewardOrder(aspect="attribute", round=0, version=0, start_version=None, rankings=("r000-00000",)))
    return made


def test_images_of_two_sizes_teach_one_model_and_are_measured(store: Store) -> None:
    made = learner(store, "reward.batch=8")
    found = made.advance(15)
    report = made.publish()
    assert found["loss"] < 0.7
    assert report.accuracy == 1.0
    assert report.std > 0
    assert weights.versions(store, "reward-attribute") == [0]


def test_gradients_that_accumulate_are_those_of_the_whole_batch(store: Store) -> None:
    found = []
    for micro in ("null", "3", "1"):
        made = learner(store, "reward.batch=8", f"reward.micro_batch={micro}")
        _, model, engine = made._opened()
        model.eval()  # dropout would draw differently in parts
        made.advance(1)
        found.append({name: t.double() for name, t in engine.weights(ema=False).items()})
    # Adam's first step is nearly the gradient's sign, so rounding shows where a gradient is almost 0: compare all.
    start = learner(store)._opened()[2].weights(ema=False)
    for other in found[1:]:
        apart = sum(float((other[name] - tensor).abs().sum()) for name, tensor in found[0].items())
        way = sum(float((tensor - start[name].double()).abs().sum()) for name, tensor in found[0].items())
        assert apart < 0.002 * way


def test_a_reward_model_learns_in_bf16(store: Store) -> None:
    made = learner(store, "reward.batch=8", "reward.engine.dtype=bf16")
    assert np.isfinite(made.advance(2)["loss"])


def test_images_of_one_size_are_fitted_in_one_piece(store: Store) -> None:
    made = learner(store)
    _, model, _ = made._opened()
    rng = np.random.default_rng(1)
    small, large = (rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (32, 64))
    mixed = made._fitted([large, small, large], model)
    assert torch.equal(mixed[1], made._fitted([small], model)[0])
    assert torch.equal(mixed[0], mixed[2])


def test_a_hardened_model_likes_no_picture_better_that_its_own_gradient_changed(store: Store) -> None:
    """Of pictures changed to please each model, the hardened one ranks more below the pair's winner."""
    beaten = {}
    for weight in (0, 1):
        made = learner(store, "reward.batch=16", "reward.fix_rate=0", f"reward.hardening.weight={weight}")
        found = made.advance(40)
        assert ("hardening_loss" in found) == bool(weight)
        _, model, engine = made._opened()
        pairs = made._train
        images, text = made._seen(pairs, model)
        spoilt = made._spoilt(images, text, model, engine, seed=7)
        with torch.no_grad():
            winner, worse = (model(model.normalise(part), *text) for part in (images[: len(pairs)], spoilt))
        beaten[weight] = float((winner > worse).float().mean())
    assert beaten[1] > beaten[0] + 0.1


def test_hardening_draws_the_same_pictures_however_often_it_is_asked(store: Store) -> None:
    made = learner(store, "reward.hardening.weight=1")
    _, model, engine = made._opened()
    images, text = made._seen(made._train[:9], model)  # an odd number: no kind has as many as another
    one, same, other = (made._spoilt(images, text, model, engine, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one != other).flatten(1).any(1).all()
    assert (one != images[:9]).flatten(1).any(1).all()
