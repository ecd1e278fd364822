"""A run that takes over another's work ends as if it had done all of it: real models and learners, in one process."""

from pathlib import Path

import pytest

from cluster.launch import reusable_work
from cluster.run_folder import prepare_folder
from itercomp_rl.config.schema import Config
from itercomp_rl.plan import Plan
from itercomp_rl.run.reuse import take_over
from itercomp_rl.store.store import Store, open_store
from tests.parts.one_process import OneProcessRun, small_config
from tests.parts.outcomes import assert_same, outcome

pytestmark = pytest.mark.usefixtures("one_thread")


def prepared(folder: Path, *overrides: str) -> tuple[Config, Store]:
    config = small_config(folder, *overrides)
    prepare_folder(config, resume=False)
    return config, open_store(config.store_url, create=True, durable=False)


@pytest.mark.slow
def test_a_sweep_that_reuses_its_gallery_learns_the_same_policies(tmp_path: Path) -> None:
    first, store = prepared(tmp_path / "first")
    OneProcessRun(first, store).go()

    swept = ("policy.engine.lr=3e-3", "policy.points_per_rollout=2", "reward.weights.spatial=0.5")
    alone, alone_store = prepared(tmp_path / "alone", *swept)
    OneProcessRun(alone, alone_store).go()

    config, new = prepared(tmp_path / "reusing", *swept)
    reused = reusable_work(str(first.run_folder), Plan(config=config))
    taken = take_over(reused.shared, reused.store, new)
    # Three members, one of which joins in the second round, drew two segments each.
    assert (taken["images"], taken["rankings"], taken["reward-attribute"], taken["reward-spatial"]) == (6, 2, 1, 1)
    assert taken["evaluations"] == taken["grades"] > 0
    assert {new.get("images", id_, []).attrs["model"] for id_ in new.ids("images")} == {"base", "spatial", "attribute"}
    OneProcessRun(config, new).go()
    assert_same(outcome(config, new), outcome(alone, alone_store))
