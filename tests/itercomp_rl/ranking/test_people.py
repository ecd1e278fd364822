"""Rankings of people in the store: the last word counts, and pairs are made of it."""

import numpy as np
import pytest

from itercomp_rl.items import ImageRef, PairRef, Prompt, RankOrder
from itercomp_rl.ranking import people
from itercomp_rl.ranking.pairs import PairRules, draw_rows, weighted
from itercomp_rl.ranking.ranking import Places
from itercomp_rl.ranking.records import rankings_attrs
from itercomp_rl.store.store import Store, open_store

PROMPTS = tuple(Prompt(id=f"p{i}", text=f"prompt {i}", aspects=("spatial",)) for i in range(30))
IMAGES = {name: ImageRef(segment=name, row=0) for name in ("a", "b", "c")}


@pytest.fixture
def store() -> Store:
    store = open_store("memory://", create=True)
    order = RankOrder(id="r000-00000", round=0, prompts=PROMPTS, images=(IMAGES,) * 30)
    store.put("rankings", order.id, {}, rankings_attrs(order, [{}] * 30))
    return store


def say(store: Store, places: Places, *, rater: str = "ann", at: float = 1.0, act="ranked", prompt: int = 0) -> None:
    said = people.Said(
        prompt=PROMPTS[prompt], aspect="spatial", rater=rater, time_s=at, act=act, places=places, images=IMAGES
    )
    people.publish(store, said)


def pairs(store: Store) -> tuple[list[PairRef], list[PairRef]]:
    return people.load_pairs(store, ["r000-00000"], "spatial", PairRules(held_out=0.3, seed=0))


def test_what_was_said_comes_back(store: Store) -> None:
    say(store, (("c",), ("a", "b")))
    (said,) = people.load(store)
    assert (said.places, said.rater, said.images["a"]) == ((("c",), ("a", "b")), "ann", IMAGES["a"])


def test_the_last_word_of_a_person_counts(store: Store) -> None:
    say(store, (("a",), ("b",)), at=1)
    say(store, (("b",), ("a",)), at=2)
    say(store, (("a",), ("b",)), at=3, rater="bob")
    assert {said.rater: said.places[0] for said in people.load(store)} == {"ann": ("b",), "bob": ("a",)}
    say(store, (), at=4, act="undone")
    assert [said.rater for said in people.load(store)] == ["bob"]


def test_a_ranking_of_three_makes_three_pairs_and_a_tie_fewer(store: Store) -> None:
    say(store, (("a",), ("b",), ("c",)))
    say(store, (("a", "b"), ("c",)), rater="bob")
    say(store, (), rater="eve", act="skipped")
    train, held_out = pairs(store)
    found = sorted((pair.winner.segment, pair.loser.segment) for pair in train + held_out)
    assert found == [("a", "b"), ("a", "c"), ("a", "c"), ("b", "c"), ("b", "c")]


def test_prompts_are_split_as_the_judges_are(store: Store) -> None:
    for i in range(30):
        say(store, (("a",), ("b",)), prompt=i)
    train, held_out = pairs(store)
    assert train and held_out
    assert not {pair.prompt.id for pair in train} & {pair.prompt.id for pair in held_out}


def test_weights_say_how_often_a_pair_is_drawn_and_0_leaves_it_out() -> None:
    def pair(name: str) -> PairRef:
        return PairRef(prompt=PROMPTS[0], winner=ImageRef(segment=name, row=0), loser=ImageRef(segment="x", row=0))

    mixed = weighted([([pair("judge")], 1.0), ([pair("person")], 3.0), ([pair("none")], 0.0)])
    assert [p.winner.segment for p in mixed] == ["judge", "person"]
    rows = draw_rows(mixed, 4000, np.random.default_rng(0))
    assert np.mean(rows == 1) == pytest.approx(0.75, abs=0.03)


def test_equal_weights_draw_as_if_there_were_none() -> None:
    alike = weighted([([PairRef(prompt=PROMPTS[0], winner=IMAGES["a"], loser=IMAGES["b"])] * 9, 2.5)])
    drawn = draw_rows(alike, 50, np.random.default_rng(3))
    assert (drawn == np.random.default_rng(3).integers(9, size=50)).all()
