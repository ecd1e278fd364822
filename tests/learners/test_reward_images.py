"""The reward learner on rankings of a real store: images of any size, and gradients that accumulate."""

import pathlib
import tracemalloc

import numpy as np
import pytest
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.items import ImageRef, Prompt, RankOrder, RewardOrder
from itercomp_rl.prompts import prompt_id
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.ranking.records import Judged, rankings_attrs
from itercomp_rl.reward.scorer import TextTokens
from itercomp_rl.store import weights
from itercomp_rl.store.image_cache import ImageCache
from itercomp_rl.store.image_loader import ImageLoader
from itercomp_rl.store.store import Store, open_store
from learners.reward import RewardLearner, _images_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 prompts drawn by two models, one at 32 px and one at 48 x 40; the first is always better."""
    return make_store(tmp_path_factory.mktemp("store"), {"good": (32, 32), "bad": (48, 40)})


def make_store(folder: pathlib.Path, shapes: dict[str, tuple[int, int]]) -> Store:
    store = open_store(folder.as_uri(), create=True)
    rng = np.random.default_rng(0)
    texts = [f"a red circle left of a blue square {i}" for i in range(40)]
    prompts = tuple(Prompt(id=prompt_id(text), text=text) for text in texts)
    for model, shape in shapes.items():
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


def learner(store: Store, *overrides: str, images: ImageLoader | None = None) -> RewardLearner:
    config: Config = load_config("tiny", ["reward.noise=0", "reward.engine.grad_clip=1e9", *overrides])
    made = RewardLearner(store, config.reward, config.judge, NO_CHECKPOINTS, config.run.seed, CPU, images)
    made.open(RewardOrder(aspect="attribute", round=0, version=0, start_version=None, rankings=("r000-00000",)))
    return made


def test_publishing_takes_no_more_memory_however_large_the_held_out_images_are(tmp_path: pathlib.Path) -> None:
    store, mib = make_store(tmp_path, {"good": (512, 512), "bad": (512, 512)}), 2**20  # 60 MiB of pixels
    made = learner(store, "reward.batch=8", "reward.held_out=0.6", images=ImageLoader(store, memory_mib=8))
    held_out = len({ref for pair in made._held_out for ref in (pair.winner, pair.loser)})
    assert held_out * 512 * 512 * 3 > 3 * 8 * mib
    learned = sum(tensor.nbytes for tensor in made._opened()[1].state_dict().values())
    tracemalloc.start()
    try:
        made.publish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * mib + 2 * learned + mib  # what is read ahead, the weights on their way, and all else


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


def test_centred_rewards_of_each_pair_come_nearer_to_zero(store: Store) -> None:
    off_center = {}
    for weight in (0.0, 1.0):
        made = learner(store, "reward.batch=8", "reward.fix_rate=0", f"reward.centering={weight}")
        found = made.advance(12)
        assert ("centering_loss" in found) == bool(weight)
        assert found["accuracy"] > 0.6
        _, model, _ = made._opened()
        model.eval()
        raw = torch.tensor(
            made._scores("attribute", model, [(p.prompt, r) for p in made._train for r in (p.winner, p.loser)])
        )
        raw = raw * float(model.reward_std) + float(model.reward_mean)
        off_center[weight] = float(raw.view(-1, 2).sum(1).square().mean())
    assert off_center[1.0] < 0.5 * off_center[0.0]


def test_a_model_that_makes_no_update_is_published_as_its_trunk_under_any_schedule(tmp_path: pathlib.Path) -> None:
    store = make_store(tmp_path, {"good": (32, 32), "bad": (32, 32)})
    made = learner(store, "reward.updates=0", "reward.engine.lr_schedule=cosine")
    before = {name: t.clone() for name, t in made._opened()[1].state_dict().items() if not name.startswith("reward_")}
    assert made.publish().num_pairs > 0
    version = weights.open_version(store, "reward-attribute", 0).load()
    assert all(torch.equal(version[name], tensor) for name, tensor in before.items())


def test_a_reward_model_learns_in_bf16(store: Store) -> None:
    made = learner(store, "reward.batch=8", "reward.engine.dtype=bf16")
    assert np.isfinite(made.advance(2)["loss"])


def test_an_image_is_seen_alike_in_any_batch_and_within_a_level_of_what_the_policy_is_scored_by(store: Store) -> None:
    made = learner(store)
    _, model, _ = made._opened()
    rng = np.random.default_rng(1)
    small, large = (rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (32, 64))
    mixed = model.normalise(made._seen([model.view(image) for image in (large, small, large)], model))
    assert torch.equal(mixed[1], model.normalise(made._seen([small], model))[0])
    assert torch.equal(mixed[0], mixed[2])
    exact = model.preprocess(torch.from_numpy(large).permute(2, 0, 1)[None].float() / 255)[0]
    inside = (exact > model.preprocess(torch.zeros(1, 3, 32, 32))) & (
        exact < model.preprocess(torch.ones(1, 3, 32, 32))
    )
    level = 0.5001 / 255 / min(model.image_std)
    assert float((mixed[0] - exact)[inside[0]].abs().max()) <= level


def test_what_is_kept_on_the_node_changes_nothing_that_is_learned(store: Store, tmp_path: pathlib.Path) -> None:
    found = []
    for cache in (None, ImageCache(tmp_path, 2**26), ImageCache(tmp_path, 2**26), ImageCache(tmp_path / "full", 1)):
        made = learner(store, "reward.batch=8", "reward.noise=0.1", images=ImageLoader(store, cache))
        made.advance(3)
        found.append({name: tensor.clone() for name, tensor in made._opened()[2].weights(ema=False).items()})
    assert all(torch.equal(other[name], tensor) for other in found[1:] for name, tensor in found[0].items())


def spoilt_of(made: RewardLearner, num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, TextTokens]:
    """The winners of the first `num` pairs, what hardening makes of these pairs, and the prompts' tokens."""
    _, model, engine = made._opened()
    pairs = made._train[:num]
    (images,) = made._images.stream([_images_of(pairs)], model.view)
    seen = made._seen(images, model)
    text = model.tokenize([pair.prompt.text for pair in pairs])
    return seen[: len(pairs)], made._spoilt(seen, text, model, engine, seed), text


def test_a_hardened_model_likes_no_picture_better_that_its_own_gradient_changed(store: Store) -> None:
    """Of pictures changed to please each model, the hardened one ranks more below the pair's winner."""
    beaten = {}
    for weight in (0, 1):
        made = learner(store, "reward.batch=16", "reward.fix_rate=0", f"reward.hardening.weight={weight}")
        found = made.advance(40)
        assert ("hardening_loss" in found) == bool(weight)
        winner, spoilt, text = spoilt_of(made, 32, seed=7)
        _, model, _ = made._opened()
        with torch.no_grad():
            better, worse = (model(model.normalise(part), *text) for part in (winner, spoilt))
        beaten[weight] = float((better > worse).float().mean())
    assert beaten[1] > beaten[0] + 0.1


def test_hardening_draws_the_same_pictures_however_often_it_is_asked(store: Store) -> None:
    made = learner(store, "reward.hardening.weight=1")
    # An odd number: no kind of picture has as many as another.
    (winner, one, _), (_, same, _), (_, other, _) = (spoilt_of(made, 9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one != other).flatten(1).any(1).all()
    assert (one != winner).flatten(1).any(1).all()
