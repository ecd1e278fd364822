"""Any role killed at any moment, in any part of its work: the run ends in the same store and weights, bit for bit.

The real loop, store, models and learners, in one process (tests/parts/one_process.py): what is killed forgets all it
held, in the middle of a write too. Kills of real processes are in test_kills.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itercomp_rl.config.schema import Config
from itercomp_rl.evaluation.scores import aspects_tree, mean_gain
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store
from tests.parts.covering import covering
from tests.parts.one_process import DriverKilledError, Kill, OneProcessRun, small_config
from tests.parts.outcomes import assert_same, outcome

ROLES = ("sampler", "judge", "reward_learner", "roller", "policy_learner", "driver")
MOMENTS = ("evaluation", "gallery", "rewards", "policy", "second round")
HOWS = ("writing", "after", "before")


pytestmark = pytest.mark.usefixtures("one_thread")


def finished(config: Config, store: Store, kills: list[Kill], **options: Any) -> int:
    """Run, and resume as often as the driver is killed; returns how many lives of the driver it took."""
    for life in range(1, len(kills) + 2):
        try:
            OneProcessRun(config, store, kills=kills, seed=life + options.get("seed", 0), **_without(options)).go()
        except DriverKilledError:
            continue
        return life
    raise AssertionError("the driver was killed more often than asked")


def _without(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "seed"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = small_config(tmp_path_factory.mktemp("undisturbed"))
    store = open_store(config.store_url, create=True, durable=False)
    assert finished(config, store, []) == 1
    return outcome(config, store)


PROBES = (
    *("evaluation.probe_every=1", "evaluation.probe_images=8", "evaluation.keep=best", "policy.patience=1"),
    *("policy.updates=4", "policy.engine.lr=3e-3"),
)


@pytest.fixture(scope="module")
def undisturbed_probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = small_config(tmp_path_factory.mktemp("undisturbed-probes"), *PROBES)
    store = open_store(config.store_url, create=True, durable=False)
    assert finished(config, store, []) == 1
    return outcome(config, store)


def check(
    kills: list[Kill], undisturbed: dict[str, Any], folder: Path, overrides: tuple[str, ...] = (), **options: Any
) -> None:
    config = small_config(folder, *overrides)
    store = open_store(config.store_url, create=True, durable=False)
    lives = finished(config, store, kills, **options)
    assert all(kill.done for kill in kills), "a kill never came"
    assert lives == 1 + sum(kill.role == "driver" for kill in kills)
    assert_same(outcome(config, store), undisturbed)
    assert not list(config.run_folder.glob("checkpoints/*/*")), "checkpoints of what is published"


# A driver that dies takes all roles with it.
@pytest.mark.parametrize("role", [*(pytest.param(role, marks=pytest.mark.slow) for role in ROLES[:-1]), "driver"])
def test_a_role_killed_once_in_every_moment_changes_nothing(role: str, undisturbed: dict, tmp_path: Path) -> None:
    kills = [Kill(role=role, moment=moment, how=HOWS[i % 3], nth=i % 2) for i, moment in enumerate(MOMENTS)]
    check(kills, undisturbed, tmp_path)


@pytest.mark.slow
def test_a_roller_that_borrows_the_learner_s_network_changes_nothing_though_the_learner_is_killed(
    tmp_path: Path,
) -> None:
    config = small_config(tmp_path / "alone")
    store = open_store(config.store_url, create=True, durable=False)
    finished(config, store, [], network="in learners' order")
    kills = [
        Kill(role="policy_learner", moment="policy", how=how, nth=nth) for how, nth in (("after", 1), ("before", 3))
    ]
    kills.append(Kill(role="roller", moment="second round", how="after"))
    check(kills, outcome(config, store), tmp_path / "borrowed", network="borrowed")


@pytest.mark.parametrize(("role", "nth"), covering(["sampler", "judge", "policy_learner", "driver"], range(3)))
def test_kills_while_a_round_is_probed_change_neither_what_is_kept_nor_where_it_ends(
    role: str, nth: int, undisturbed_probes: dict, tmp_path: Path
) -> None:
    kills = [
        Kill(role=role, moment=moment, how=HOWS[(nth + i) % 3], nth=nth)
        for i, moment in enumerate(("policy", "second round"))
    ]
    check(kills, undisturbed_probes, tmp_path, PROBES, seed=nth)


@pytest.mark.slow
def test_a_run_that_is_probed_and_keeps_the_last_learns_what_one_without_probes_does(
    undisturbed: dict, tmp_path: Path
) -> None:
    config = small_config(tmp_path, "evaluation.probe_every=2", "evaluation.probe_images=8")
    store = open_store(config.store_url, create=True, durable=False)
    finished(config, store, [])
    found = outcome(config, store)
    probes = {key for key in found if key.startswith("probe")}
    assert len(probes) == 2 * 2 * 3
    assert_same({key: value for key, value in found.items() if key not in probes}, undisturbed)


@pytest.mark.parametrize(("role", "moment", "seed"), covering(ROLES, MOMENTS, range(2)))
def test_a_kill_in_any_moment_and_part_of_the_work_changes_nothing(
    role: str, moment: str, seed: int, undisturbed: dict, tmp_path: Path
) -> None:
    rng = np.random.default_rng([seed, ROLES.index(role), MOMENTS.index(moment)])
    kill = Kill(role=role, moment=moment, how=HOWS[rng.integers(3)], nth=int(rng.integers(2)))
    check([kill], undisturbed, tmp_path, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("samplers", [4])
def test_the_number_of_samplers_and_the_order_of_work_do_not_change_the_outcome(
    samplers: int, undisturbed: dict, tmp_path: Path
) -> None:
    check([], undisturbed, tmp_path, samplers=samplers, seed=17)


@pytest.mark.slow
def test_a_run_goes_on_without_images_that_no_sampler_survives(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    plan = Plan(config=config)
    store = open_store(config.store_url, create=True, durable=False)
    in_gallery, held_out = plan.gallery_prompts[3], plan.evaluation_orders(plan.policy(0))[0].prompts[0]
    finished(config, store, [], deadly=[("spatial", in_gallery.id), ("policy-0", held_out.id)])
    assert store.get("images", "spatial-00000", []).attrs["set_aside"] == [3]
    for round_ in range(2):
        for row, (prompt, images, judged) in enumerate(load_rankings(store, plan.rankings_id(round_, 0))):
            assert ("spatial" in images) == (row != 3)
            assert {"base", "attribute"} & set(images)
            named = {model for ranking in judged.values() for place in ranking.ranking.places for model in place}
            assert named <= set(images), prompt.text
    graded = store.get("grades", plan.evaluation_orders(plan.policy(0))[0].id).attrs["rows"]
    assert [bool(row["grades"]) for row in graded] == [False] + [True] * (len(graded) - 1)
    assert np.isfinite(mean_gain(store, plan, 0)[0])
    assert {"attribute", "spatial"} <= set(aspects_tree(store, plan))
    assert weights.versions(store, "policy") == [0, 1]


@pytest.mark.slow
def test_the_policy_learns_beside_its_rewards_and_says_by_which(tmp_path: Path) -> None:
    early_on = ("reward.rankings_first=1", "policy.reward_updates_first=1")
    config = small_config(tmp_path, *early_on, "policy.max_policy_lag=1", "policy.anchor_every=3")
    store = open_store(config.store_url, create=True, durable=False)
    finished(config, store, [])
    outcome(config, store)
    early = 0
    for round_ in range(2):
        attrs = weights.open_version(store, "policy", round_).attrs
        assert {report["version"] for report in attrs["rewards"].values()} == {round_}
        steps = [entry["update"] for entry in attrs["learned_by"]]
        assert steps == sorted(steps) and set(steps) <= set(range(4))
        reports = [entry[aspect] for entry in attrs["learned_by"] for aspect in config.prompts.aspects]
        early += sum(report["live_role"] is not None for report in reports)
        assert all(1 <= report["version"] <= 3 for report in reports if report["live_role"])
    assert early


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_a_role_killed_while_all_learn_at_once_leaves_a_whole_run(role: str, tmp_path: Path) -> None:
    early_on = ("reward.rankings_first=1", "policy.reward_updates_first=1")
    config = small_config(tmp_path, *early_on, "policy.max_policy_lag=1", "policy.anchor_every=3")
    store = open_store(config.store_url, create=True, durable=False)
    kills = [Kill(role=role, moment=moment, how=HOWS[i % 3], nth=i % 2) for i, moment in enumerate(MOMENTS)]
    finished(config, store, kills)
    # A kill may not come: what begins in one moment may still be under way in the next.
    assert sum(kill.done for kill in kills) >= 3
    outcome(config, store)
    assert weights.versions(store, "policy") == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_learner_killed_while_held_near_its_base_draws_the_same_orders_again(rank: int, tmp_path: Path) -> None:
    """With whole weights the copy of the base is made anew by whoever goes on."""
    guarded = ("policy.stay_near_base=1.0", "policy.aspect_gradients=project_by_image", f"policy.lora.rank={rank}")
    outcomes = []
    kills = [Kill(role="policy_learner", moment=moment, how="before", nth=2) for moment in ("policy", "second round")]
    for name, due in (("undisturbed", []), ("killed", kills)):
        config = small_config(tmp_path / name, *guarded, "policy.gradient_metrics_every=1")
        store = open_store(config.store_url, create=True, durable=False)
        finished(config, store, due)
        outcomes.append(outcome(config, store))
    assert all(kill.done for kill in kills)
    assert_same(*outcomes)


@pytest.mark.slow
def test_a_reward_model_no_better_than_chance_places_no_newcomer(tmp_path: Path) -> None:
    config = small_config(tmp_path, "reward.min_accuracy=0.999", "reward.on_bad_reward=drop")
    store, plan = open_store(config.store_url, create=True, durable=False), Plan(config=config)
    finished(config, store, [])
    reports = {
        aspect: weights.open_version(store, f"reward-{aspect}", 0).attrs["report"] for aspect in config.prompts.aspects
    }
    trusted = {aspect: report["accuracy"] >= 0.999 for aspect, report in reports.items()}
    assert not all(trusted.values())
    for segment in range(len(plan.segments())):
        for _, images, rankings in load_rankings(store, plan.rankings_id(1, segment)):
            assert {"attribute", "policy-0"} <= set(images)
            for aspect, judged in rankings.items():
                assert ({"attribute", "policy-0"} <= set(judged.ranking.models)) == trusted[aspect]
