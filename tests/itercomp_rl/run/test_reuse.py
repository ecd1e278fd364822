"""What a run takes over: exactly the work whose orders and settings are the same, and nothing after a policy."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.pairs import PairRules
from itercomp_rl.ranking.people import Said, load, load_pairs, publish
from itercomp_rl.run.reuse import check_prompts, record_id, reusable, take_over
from itercomp_rl.store.layout import record_place
from itercomp_rl.store.store import Store, open_store
from tests.parts.small_run import small_run


def plan(*overrides: str) -> Plan:
    return Plan(config=load_config("tiny", ["judge.later_rounds=oracle", *overrides]))


def kinds(old: Plan, new: Plan) -> Counter[str]:
    return Counter(one.kind for one in reusable(old, new))


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
        ("policy.reward_updates_first=2", RANKS),
        ("reward.rankings_first=1", RANKS),
        ("reward.engine.lr=1e-5", RANKS),
        ("judge.flip=0.1", RANKS),
        ("judge.margin=0.3", RANKS),
        ("prompts.aspects=[attribute,spatial]", IMAGES),
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
    by_reward = ("judge.first_round=reward", "evaluation.judge=reward", "evaluation.allow_self_grading=true")
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


JUDGES = ("judge.first_round=reward", "evaluation.judge=reward", "judge.later_rounds=reward")
FILES = ("prompts.source=files", *JUDGES, "evaluation.allow_self_grading=true")


def of_files(folder: Path, *overrides: str) -> Plan:
    return plan(*FILES, f"prompts.train_file={folder / 'p.txt'}", f"prompts.test_file={folder / 'p.txt'}", *overrides)


def test_losses_on_founders_pictures_are_shared_only_where_all_of_these_are(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"a cup and {number} spoons" for number in range(300)))
    assert "losses" in kinds(of_files(tmp_path), of_files(tmp_path))
    found = kinds(of_files(tmp_path), of_files(tmp_path, "gallery.members.spatial.num_steps=3"))
    assert found["evaluations"]
    assert "losses" not in found


def test_rank_files_count_members_in_their_order() -> None:
    ranks = "judge.first_round=ranks.json"
    members = load_config("tiny").gallery.members
    assert "rankings" in kinds(plan(ranks), plan(ranks))
    one = plan(ranks)
    other = Plan(
        config=replace(one.config, gallery=replace(one.config.gallery, members=dict(reversed(members.items()))))
    )
    assert kinds(one, other)["images"] == EVERYTHING["images"]
    assert "rankings" not in kinds(one, other)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Plan, Store]:
    config, store = small_run(tmp_path)
    return Plan(config=config), store


def test_work_is_copied_once_and_nothing_that_came_after_a_policy(source: tuple[Plan, Store]) -> None:
    old, old_store = source
    new = open_store("memory://", create=True)
    taken = take_over(reusable(old, old), old_store, new)
    segments = len(old.segments())
    founders = sum(len(old.founders(round_)) for round_ in range(old.rounds))
    assert taken == {"images": founders * segments, "rankings": segments} | {
        f"reward-{aspect}": 1 for aspect in old.config.prompts.aspects
    }
    assert not [id_ for id_ in new.ids("images") if id_.startswith("policy")]
    assert not new.backend.sizes("versions/policy")
    assert not take_over(reusable(old, old), old_store, new)


def test_a_copy_says_who_made_the_record(source: tuple[Plan, Store]) -> None:
    old, old_store = source
    new = open_store("memory://", create=True)
    take_over(reusable(old, old), old_store, new)
    place = record_place("images", new.ids("images")[0])
    one, other = old_store.find(place), new.find(place)
    assert one
    assert other
    assert (one.writer, one.software, one.attrs) == (other.writer, other.software, other.attrs)


def say(store: Store, plan_: Plan, models: tuple[str, ...], time_s: float) -> None:
    order = plan_.rank_order(1, 0)  # the second round's, with the first policy among its models
    images = {model: order.images[0][model] for model in models}
    places = tuple((model,) for model in models)
    publish(
        store,
        Said(
            prompt=order.prompts[0],
            aspect="attribute",
            rater="ann",
            time_s=time_s,
            act="ranked",
            places=places,
            images=images,
        ),
    )


def test_people_are_heard_on_copied_images_alone_and_rewards_that_may_not_have_heard_them_are_learned_anew(
    source: tuple[Plan, Store],
) -> None:
    old, old_store = source
    say(old_store, old, ("base", "spatial"), 1.7e9)
    say(old_store, old, ("base", "policy-0"), 1.8e9)
    new = open_store("memory://", create=True)
    taken = take_over(reusable(old, old), old_store, new)
    assert taken["people"] == 1
    assert [said.images.keys() for said in load(new)] == [{"base", "spatial"}]
    assert not [kind for kind in taken if kind.startswith("reward")]
    pairs, held_out = load_pairs(new, list(old.rankings(0)), "attribute", PairRules(held_out=0.2, seed=0))
    assert [(p.winner.segment, p.loser.segment) for p in pairs + held_out] == [("base-00000", "spatial-00000")]


def test_images_of_other_prompts_than_the_file_now_holds_are_refused(source: tuple[Plan, Store]) -> None:
    """A file was edited since: both runs plan from it as it is now."""
    old_store = source[1]
    other = plan("prompts.world.colours=[red,green,purple]")
    with pytest.raises(ConfigError, match="images of other prompts"):
        check_prompts(reusable(other, other), old_store)


def test_images_of_an_endpoint_are_taken_over_unless_it_lies_elsewhere() -> None:
    def served(url: str, parallel: int = 4) -> Plan:
        member = "gallery.members.served={system: endpoint, endpoint: hall, model: big, size_px: 32}"
        return plan(member, f"gallery.endpoints.hall={{url: '{url}', parallel: {parallel}}}")

    def taken(old: Plan, new: Plan) -> set[str]:
        return {name for one in reusable(old, new) if (name := record_id(one.place)).startswith("served")}

    assert taken(served("http://a/v1"), served("http://a/v1", parallel=9)) == {"served-00000", "served-00001"}
    assert taken(served("http://a/v1"), served("http://b/v1")) == set()
    assert kinds(plan(), served("http://a/v1"))["images"] == EVERYTHING["images"]
