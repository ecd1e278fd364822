"""What a run takes over: exactly the work whose orders and settings are the same, and nothing after a policy."""

from collections import Counter
from pathlib import Path

import pytest

from itercomp_rl.config import load_config
from itercomp_rl.plan import Plan
from itercomp_rl.reuse import reusable, take_over
from itercomp_rl.store.layout import record_place
from itercomp_rl.store.store import Store, open_store
from tests.small_run import small_run


def plan(*overrides: str) -> Plan:
    return Plan(config=load_config("tiny", ["judge.later_rounds=oracle", *overrides]))


def kinds(old: Plan, new: Plan) -> Counter[str]:
    return Counter(place.marker.split("/")[1] for place in reusable(old, new))


EVERYTHING = kinds(plan(), plan())
IMAGES = {"images", "evaluations", "losses"}
GRADES = IMAGES | {"grades"}
RANKS = GRADES | {"rankings"}
ALL_KINDS = RANKS | {"reward-attribute", "reward-spatial", "reward-non_spatial"}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("run.name=other", ALL_KINDS),
        ("policy.updates=9", ALL_KINDS),
        ("policy.engine.lr=1e-5", ALL_KINDS),
        ("policy.max_policy_lag=4", ALL_KINDS),
        ("prompts.policy=40", ALL_KINDS),
        ("run.rounds=1", ALL_KINDS),
        ("reward.weights.spatial=0", ALL_KINDS),
        ("reward.min_accuracy=0.7", ALL_KINDS),
        ("actors.samplers.count=3", ALL_KINDS),
        ("reward.updates=7", RANKS),
        ("reward.engine.lr=1e-5", RANKS),
        ("judge.flip=0.1", RANKS),
        ("judge.margin=0.3", RANKS),
        ("gallery.batch=7", set()),
        ("run.seed=1", {"evaluations", "losses", "grades"}),
        ("prompts.gallery=200", {"evaluations", "losses", "grades"}),
    ],
)
def test_what_a_changed_setting_leaves_to_take_over(change: str, left: set[str]) -> None:
    assert set(kinds(plan(), plan(change))) == left
    assert set(EVERYTHING) == ALL_KINDS


def test_another_trunk_changes_what_reward_models_learn_and_what_a_judge_of_that_trunk_says() -> None:
    trunk = "reward.trunk=embedded:trunk"
    assert set(kinds(plan(), plan(trunk))) == RANKS
    by_reward = ("judge.first_round=reward", "evaluation.judge=reward")
    assert set(kinds(plan(*by_reward), plan(*by_reward))) == ALL_KINDS
    assert set(kinds(plan(*by_reward), plan(*by_reward, trunk))) == IMAGES
    assert set(kinds(plan(), plan(*by_reward))) == IMAGES


def test_a_member_that_draws_otherwise_is_drawn_anew_and_so_are_rankings_with_it() -> None:
    found = kinds(plan(), plan("gallery.members.spatial.num_steps=3"))
    assert set(found) == GRADES
    assert 0 < found["images"] < EVERYTHING["images"]
    assert 0 < found["evaluations"] < EVERYTHING["evaluations"]


def test_a_base_that_differs_leaves_the_others_grades() -> None:
    found = kinds(plan(), plan("policy.model=embedded:generalist"))
    assert found["images"] == EVERYTHING["images"]
    assert found["evaluations"] < EVERYTHING["evaluations"]
    assert "losses" not in found


@pytest.fixture
def source(tmp_path: Path) -> tuple[Plan, Store]:
    config, store = small_run(tmp_path)
    return Plan(config=config), store


def test_work_is_copied_once_and_nothing_that_came_after_a_policy(source: tuple[Plan, Store]) -> None:
    old, old_store = source
    new = open_store("memory://", create=True)
    old_store.put("people", "00000000000001-aa", {}, {"rater": "ann"})
    taken = take_over(reusable(old, old), old_store, new)
    segments = len(old.segments())
    founders = sum(len(old.founders(round_)) for round_ in range(old.rounds))
    assert taken == {"images": founders * segments, "rankings": segments, "people": 1} | {
        f"reward-{aspect}": 1 for aspect in old.config.prompts.aspects
    }
    assert not [id_ for id_ in new.ids("images") if id_.startswith("policy")]
    assert not new.backend.sizes("versions/policy")
    assert not take_over(reusable(old, old), old_store, new)


def test_a_copy_says_who_made_the_record_and_when(source: tuple[Plan, Store]) -> None:
    old, old_store = source
    new = open_store("memory://", create=True)
    take_over(reusable(old, old), old_store, new)
    place = record_place("images", new.ids("images")[0])
    one, other = old_store.find(place), new.find(place)
    assert one and other
    assert (one.writer, one.time_s, one.software, one.attrs) == (
        other.writer,
        other.time_s,
        other.software,
        other.attrs,
    )
