"""From rankings in the store to pairs and images."""

import numpy as np
import pytest

from itercomp_rl.items import ImageRef, Prompt, RankOrder
from itercomp_rl.prompts import prompt_id
from itercomp_rl.ranking.pairs import PairRules, load_pairs
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.ranking.records import Judged, load_rankings, rankings_attrs
from itercomp_rl.store.store import Store, open_store

MODELS = ("a", "b", "c", "late")


@pytest.fixture
def store() -> Store:
    store = open_store("memory://", create=True)
    prompts = tuple(Prompt(id=f"p{i}", text=f"prompt {i}", aspects=("spatial",)) for i in range(40))
    images = tuple({name: ImageRef(segment=name, row=row) for name in MODELS} for row in range(40))
    judged = Judged(
        ranking=Ranking(prompt_id="p", aspect="spatial", places=(("late",), ("a",), ("b",), ("c",))),
        scores={"a": 0.9, "b": 0.8, "c": 0.1},
    )
    order = RankOrder(id="r000-00000", round=0, prompts=prompts, images=images)
    store.put("rankings", order.id, {}, rankings_attrs(order, [{"spatial": judged}] * 40))
    for number, name in enumerate(MODELS):
        store.put("images", name, {"images": np.full((40, 4, 4, 3), number, np.uint8)}, {})
    return store


def pairs(store: Store, margin: float = 0.0, flip: float = 0.0, held_out: float = 0.25):
    ids = ["r000-00000"]
    return load_pairs(store, ids, "spatial", PairRules(margin=margin, flip=flip, held_out=held_out, seed=3))


def test_a_record_gives_back_what_was_put(store: Store) -> None:
    prompt, images, rankings = load_rankings(store, "r000-00000")[7]
    assert (prompt.id, images["c"], rankings["spatial"].scores["b"]) == ("p7", ImageRef(segment="c", row=7), 0.8)


def test_four_images_in_four_places_make_six_pairs_a_prompt(store: Store) -> None:
    train, held_out = pairs(store)
    assert len(train) + len(held_out) == 40 * 6
    assert len(held_out) > 0


def test_held_out_pairs_share_no_prompt_with_training(store: Store) -> None:
    train, held_out = pairs(store)
    assert not {p.prompt.id for p in train} & {p.prompt.id for p in held_out}


def test_near_scores_of_the_judge_make_no_pair_but_placed_newcomers_do(store: Store) -> None:
    train, held_out = pairs(store, margin=0.2)
    found = {(p.winner.segment, p.loser.segment) for p in train + held_out}
    assert found == {("late", "a"), ("late", "b"), ("late", "c"), ("a", "c"), ("b", "c")}


def test_an_aspect_may_have_a_margin_of_its_own(store: Store) -> None:
    def found(**margins: float) -> int:
        rules = PairRules(margin=0.2, margins=margins, held_out=0.25, seed=3)
        return sum(map(len, load_pairs(store, ["r000-00000"], "spatial", rules)))

    assert (found(), found(attribute=0.0), found(spatial=0.0)) == (40 * 5, 40 * 5, 40 * 6)


def test_flips_turn_about_their_share_of_training_pairs_and_no_held_out_one(store: Store) -> None:
    plain, kept = pairs(store)
    flipped, kept_too = pairs(store, flip=0.3)
    assert kept == kept_too
    turned = sum(one != other for one, other in zip(plain, flipped, strict=True)) / len(plain)
    assert 0.2 < turned < 0.4
    assert pairs(store, flip=0.3)[0] == flipped


def test_an_aspect_nobody_ranked_has_no_pairs(store: Store) -> None:
    assert load_pairs(store, ["r000-00000"], "attribute", PairRules(held_out=0.2, seed=0)) == ([], [])


def test_near_copies_of_a_prompt_are_held_out_together() -> None:
    rules = PairRules(held_out=0.5, seed=0)
    kept = set()
    for i in range(40):
        texts = (f"a red cup {i}", f"A red  Cup {i}", f"a RED cup {i} ")
        sides = {rules.keeps(Prompt(id=prompt_id(text), text=text)) for text in texts}
        assert len(sides) == 1
        kept |= sides
    assert kept == {True, False}
