"""The reward learner on pairs of people: a session of the ranking page is enough to teach a model."""

import dataclasses
import pathlib

import pytest
import torch

from itercomp_rl.config import load_config
from itercomp_rl.errors import DivergedError
from itercomp_rl.items import ImageRef, RankOrder, RewardOrder
from itercomp_rl.rank_page.session import Session, load_tasks
from itercomp_rl.records import rankings_attrs
from itercomp_rl.schema import PairWeightsConfig
from itercomp_rl.store.store import Store
from learners.reward import RewardLearner
from tests.rank_store import MODELS, make_rank_store

ORDER = RewardOrder(aspect="attribute", round=0, version=0, start_version=None, rankings=("r000-00000",))


@pytest.fixture(scope="module")
def store() -> Store:
    """Images that one person ranked, "one" best, and that no judge did."""
    store, prompts = make_rank_store(num=12)
    images = tuple({model: ImageRef(segment=f"{model}-00000", row=i) for model in MODELS} for i in range(12))
    order = RankOrder(id="r000-00000", round=0, prompts=tuple(prompts), images=images)
    store.put("rankings", order.id, {}, rankings_attrs(order, [{}] * 12))
    session = Session(store, load_tasks(store, ["attribute"]))
    while task := session.next_task("ann"):
        slots = session.slots("ann", task)
        first = slots.index("one")
        session.rank("ann", task.id, [[first], [slot for slot in range(3) if slot != first]])
    return store


NO_CHECKPOINTS = pathlib.Path("/nonexistent")  # so few updates make none


def learner(store: Store, weights: PairWeightsConfig) -> RewardLearner:
    config = load_config("tiny", ["reward.batch=8"])
    judge = dataclasses.replace(config.judge, pair_weights=weights)
    return RewardLearner(store, config.reward, judge, NO_CHECKPOINTS, 0, torch.device("cpu"))


def test_a_session_of_the_page_trains_a_reward_model(store: Store) -> None:
    found = learner(store, PairWeightsConfig(judge=1.0, people=1.0))
    found.open(ORDER)
    assert found.advance(2)["loss"] > 0
    report = found.publish()
    assert report.num_pairs >= 2
    assert report.num_pairs % 2 == 0  # one above two tied: two pairs a prompt


def test_people_of_weight_0_are_not_listened_to(store: Store) -> None:
    with pytest.raises(DivergedError, match="0 pairs to learn from"):
        learner(store, PairWeightsConfig(judge=1.0, people=0.0)).open(ORDER)
