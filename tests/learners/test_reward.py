"""The reward learner on pairs of people: a session of the ranking page is enough to teach a model."""

import dataclasses
import pathlib

import pytest
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import PairWeightsConfig
from itercomp_rl.errors import DivergedError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import ImageRef, RankOrder, RewardOrder
from itercomp_rl.loop.divergence import trusted
from itercomp_rl.ranking.page.session import Session, load_tasks
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.ranking.records import Judged, prompt_tree, rankings_attrs
from itercomp_rl.reward.checkpoint import load_reward, save_reward
from itercomp_rl.reward.conv import ConvReward
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store
from learners.reward import RewardLearner
from tests.parts.rank_store import MODELS, make_rank_store

HALVES = ("r001-00000", "r001-00001")
ORDER = RewardOrder(aspect="attribute", round=0, version=0, start_version=None, rankings=("r000-00000",))


@pytest.fixture(scope="module")
def store() -> Store:
    return make_store()


def make_store() -> Store:
    """Images that one person ranked, "one" best, and that no judge did; whole, and in two halves."""
    store, prompts = make_rank_store(num=12)
    images = tuple({model: ImageRef(segment=f"{model}-00000", row=i) for model in MODELS} for i in range(12))
    for id_, part in (("r000-00000", slice(12)), (HALVES[0], slice(6)), (HALVES[1], slice(6, 12))):
        order = RankOrder(id=id_, round=0, prompts=tuple(prompts[part]), images=images[part])
        store.put("rankings", order.id, {}, rankings_attrs(order, [{}] * len(order.prompts)))
    session = Session(store, load_tasks(store, ["attribute"]))
    while task := session.next_task("ann"):
        slots = session.slots("ann", task)
        first = slots.index("one")
        session.rank("ann", task.id, [[first], [slot for slot in range(3) if slot != first]])
    return store


NO_CHECKPOINTS = pathlib.Path("/nonexistent")  # so few updates make none


def learner(store: Store, heard: PairWeightsConfig, *overrides: str) -> RewardLearner:
    config = load_config("tiny", ["reward.batch=8", *overrides])
    judge = dataclasses.replace(config.judge, pair_weights=heard)
    return RewardLearner(store, config.reward, judge, NO_CHECKPOINTS, 0, torch.device("cpu"))


def test_a_session_of_the_page_trains_a_reward_model(store: Store) -> None:
    found = learner(store, PairWeightsConfig(judge=1.0, people=1.0))
    found.open(ORDER)
    assert found.advance(2)["loss"] > 0
    report = found.publish()
    assert report.num_pairs >= 2
    assert report.num_pairs % 2 == 0  # one above two tied: two pairs a prompt


def test_pairs_that_came_later_teach_and_measure_as_those_that_were_there() -> None:
    store, found = make_store(), {}
    for way, version in (("at once", 0), ("later", 1)):
        one = learner(store, PairWeightsConfig(judge=1.0, people=1.0))
        first = HALVES if way == "at once" else HALVES[:1]
        one.open(dataclasses.replace(ORDER, version=version, rankings=first))
        if way == "later":
            one.add(HALVES[1:])
        one.advance(2)
        report = one.publish()
        assert weights.open_version(store, "reward-attribute", version).attrs["rankings"] == list(HALVES)
        found[way] = report.num_pairs, report.mean, report.std
    assert found["at once"] == pytest.approx(found["later"], rel=1e-3)  # people's pairs may come in another order
    alone = learner(store, PairWeightsConfig(judge=1.0, people=1.0))
    alone.open(dataclasses.replace(ORDER, version=2, rankings=HALVES[:1]))
    assert alone.publish().num_pairs < found["later"][0]


def trunk_with_head(folder: pathlib.Path, value: float) -> str:
    """The shipped trunk, its last layer all of this value."""
    model = load_reward(pathlib.Path(checkpoint_path("embedded:conv_trunk")))
    assert isinstance(model, ConvReward)
    with torch.no_grad():
        for weight in model.head[-1].parameters():
            weight.fill_(value)
    save_reward(model, folder)
    return f"reward.trunk={folder}"


def test_a_model_that_finds_all_images_alike_is_for_the_rule_of_trust(tmp_path: pathlib.Path) -> None:
    found = learner(make_store(), PairWeightsConfig(judge=1.0, people=1.0), trunk_with_head(tmp_path / "trunk", 0.0))
    found.open(ORDER)
    report = found.publish()
    assert report.accuracy == 0  # a tie is no winner above its loser
    assert report.std > 0
    assert trusted(report, 0.6, "drop").weight == 0
    with pytest.raises(DivergedError, match="attribute reward model is right on 0%"):
        trusted(report, 0.6, "stop")


def test_rewards_that_are_not_finite_end_the_run_with_the_way_out(tmp_path: pathlib.Path) -> None:
    trunk = trunk_with_head(tmp_path / "trunk", float("nan"))
    found = learner(make_store(), PairWeightsConfig(judge=1.0, people=1.0), trunk)
    found.open(ORDER)
    with pytest.raises(
        DivergedError, match=r"the attribute reward model gives .* not finite: lower reward\.engine\.lr"
    ):
        found.publish()


def test_people_of_weight_0_are_not_listened_to(store: Store) -> None:
    with pytest.raises(DivergedError, match="0 pairs to learn from"):
        learner(store, PairWeightsConfig(judge=1.0, people=0.0)).open(ORDER)


def test_imported_pairs_teach_and_measure_by_their_weight_in_every_round_and_once() -> None:
    store, prompts = make_rank_store(num=12)
    images = [{model: ImageRef(segment=f"{model}-00000", row=i) for model in MODELS} for i in range(12)]
    order = RankOrder(id="r000-00000", round=0, prompts=tuple(prompts), images=tuple(images))
    store.put("rankings", order.id, {}, rankings_attrs(order, [{}] * 12))
    trees = []
    for prompt, refs in zip(prompts, images, strict=True):
        ranking = Ranking(prompt_id=prompt.id, aspect="attribute", places=(("one",), ("two",)))
        judged = Judged(
            ranking=ranking, scores={"one": 0.1, "two": 0.0}
        )  # nearer than judge.margin, which is the judge's
        trees.append(prompt_tree(prompt, {name: refs[name] for name in ("one", "two")}, {"attribute": judged}))
    for id_, part in (("imported-a-000000", trees[:6]), ("imported-b-000000", trees[6:])):
        store.put("preferences", id_, {}, {"prompts": part})
    one = learner(store, PairWeightsConfig(judge=1.0, people=1.0, imported=0.5))
    one.open(ORDER)
    assert len(one._train) + len(one._held_out) == 12
    assert {pair.weight for pair in one._train} == {0.5}
    one.add(ORDER.rankings)  # rankings that come later bring no imported pair again
    assert len(one._train) + len(one._held_out) == 12
    assert one.advance(2)["loss"] > 0
    assert one.publish().num_pairs == len({pair.prompt.id for pair in one._held_out})
    with pytest.raises(DivergedError, match="has 0 pairs to learn from"):
        learner(store, PairWeightsConfig(judge=1.0, people=1.0, imported=0.0)).open(ORDER)
    with pytest.raises(DivergedError, match="the spatial aspect has 0 pairs"):
        one.open(dataclasses.replace(ORDER, aspect="spatial"))
