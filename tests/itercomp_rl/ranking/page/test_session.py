"""What the ranking page knows, without a browser."""

import itertools

import numpy as np
import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.ranking import people
from itercomp_rl.ranking.page.session import Session, checked_name, load_tasks
from itercomp_rl.store.store import Store, open_store
from tests.parts.rank_store import MODELS, make_rank_store


@pytest.fixture
def store() -> Store:
    return make_rank_store()[0]


def session_of(store: Store) -> Session:
    seconds = itertools.count(1)
    return Session(store, load_tasks(store), clock=lambda: float(next(seconds)))


def best_is(session: Session, rater: str, first: str) -> None:
    """Rank the next task with `first` best and the others tied."""
    task = session.next_task(rater)
    assert task is not None
    slots = session.slots(rater, task)
    session.rank(rater, task.id, [[slots.index(first)], [i for i, name in enumerate(slots) if name != first]])


def test_every_prompt_is_asked_once_per_aspect_with_all_its_images(store: Store) -> None:
    tasks = load_tasks(store)
    assert len({task.id for task in tasks}) == len(tasks)
    assert len(tasks) == sum(len(prompt.aspects) for prompt in make_rank_store()[1])
    assert all(set(task.images) == set(MODELS) for task in tasks)
    assert {task.aspect for task in load_tasks(store, ["spatial"])} <= {"spatial"}


def test_an_image_that_was_set_aside_is_shown_to_nobody(store: Store) -> None:
    prompts = make_rank_store()[1]
    attrs = {"model": "four", "prompts": [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in prompts]}
    images = np.zeros((len(prompts), 32, 32, 3), np.uint8)
    store.put("images", "four-00000", {"images": images}, {**attrs, "set_aside": [1]})
    has_four = {task.prompt.id: "four" in task.images for task in load_tasks(store)}
    assert has_four == {prompt.id: i != 1 for i, prompt in enumerate(prompts)}


def test_a_store_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="no prompt with two images"):
        load_tasks(open_store("memory://", create=True))


def test_slots_are_shuffled_by_person_and_task_and_stay_as_they_are(store: Store) -> None:
    session = session_of(store)
    orders = [tuple(session.slots(rater, task)) for rater in ("ann", "bob") for task in load_tasks(store)]
    assert len(set(orders)) > 1
    assert all(sorted(order) == sorted(MODELS) for order in orders)
    again = session_of(store)
    assert orders == [tuple(again.slots(rater, task)) for rater in ("ann", "bob") for task in load_tasks(store)]


def test_a_ranking_lands_in_the_store_with_rater_time_and_ties(store: Store) -> None:
    session = session_of(store)
    best_is(session, "ann", "two")
    (said,) = people.load(store)
    assert (said.rater, said.time_s, said.places[0]) == ("ann", 1.0, ("two",))
    assert set(said.places[1]) == {"one", "three"}


def test_a_session_goes_on_where_it_was(store: Store) -> None:
    session = session_of(store)
    best_is(session, "ann", "one")
    waiting = session.next_task("ann")
    assert waiting is not None
    session.skip("ann", waiting.id)
    later = session_of(store)
    assert later.progress("ann") == {"ranked": 1, "skipped": 1, "total": len(load_tasks(store))}
    assert later.next_task("ann") == session.next_task("ann") != waiting
    assert later.next_task("bob") == load_tasks(store)[0]


def test_undo_brings_the_last_task_back_and_then_the_one_before(store: Store) -> None:
    session = session_of(store)
    first, second = load_tasks(store)[:2]
    best_is(session, "ann", "one")
    session.skip("ann", second.id)
    assert session.undo("ann") and session.next_task("ann") == second
    assert session.undo("ann") and session.next_task("ann") == first
    assert not session.undo("ann")
    assert people.load(store) == []


def test_everything_answered_leaves_nothing(store: Store) -> None:
    session = session_of(store)
    for task in load_tasks(store):
        session.skip("ann", task.id)
    assert session.next_task("ann") is None


@pytest.mark.parametrize("places", [[], [[0], [1]], [[0], [1], [1], [2]], [[0, 1, 2], []], [[0], [1], [3]]])
def test_an_order_that_is_not_one_of_all_images_is_refused(places: list[list[int]], store: Store) -> None:
    session = session_of(store)
    with pytest.raises(ValueError, match="must hold each of 0..2 once"):
        session.rank("ann", load_tasks(store)[0].id, places)
    assert people.load(store) == []


def test_agreement_is_the_mean_tau_of_common_tasks(store: Store) -> None:
    session = session_of(store)
    for task in load_tasks(store)[:3]:
        for rater, order in (("ann", MODELS), ("bob", MODELS[::-1]), ("eve", MODELS)):
            slots = session.slots(rater, task)
            session.rank(rater, task.id, [[slots.index(model)] for model in order])
    taus = {(row["one"], row["other"]): (row["tau"], row["tasks"]) for row in session.agreement()}
    assert taus == {("ann", "bob"): (-1.0, 3), ("ann", "eve"): (1.0, 3), ("bob", "eve"): (-1.0, 3)}


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, "a\nb", None, 7])
def test_a_name_must_be_short_and_printable(name: object) -> None:
    with pytest.raises(ValueError, match="1 to 40 printable"):
        checked_name(name)
    assert checked_name(" Ann ") == "Ann"
