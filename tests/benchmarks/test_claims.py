"""The claims benchmark: its arms are configs that load and differ in what they are to tell apart."""

from pathlib import Path

import pytest
from claims import ARMS, differences_of
from variants import reuse_of

from cluster.run_folder import prepare_folder
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.store.store import open_store


def config_of(arm: str) -> Config:
    return load_config("quickstart", ARMS[arm])


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_starts_from_a_trunk_that_was_told_nothing_of_composition(arm: str) -> None:
    assert config_of(arm).reward.trunk == "embedded:generic_trunk"


def test_arms_of_a_claim_make_as_many_policy_updates() -> None:
    for claim in ("e1", "e2"):
        totals = {
            arm: config_of(arm).run.rounds * config_of(arm).policy.updates for arm in ARMS if arm.startswith(claim)
        }
        assert len(set(totals.values())) == 1, totals


def test_copies_are_as_many_members_of_one_model() -> None:
    different = config_of("e1-five-models").gallery.members
    assert len({member.model for member in different.values()}) == len(different)
    for arm in ("e1-copies-of-generalist", "e1-copies-of-spatial"):
        copies = config_of(arm).gallery.members
        assert copies.keys() == different.keys()
        assert len({member.model for member in copies.values()}) == 1


def test_in_a_growing_gallery_one_thing_changes_at_a_time() -> None:
    first = config_of("e2a-reward-places-newcomers")
    assert {member.join_round for member in first.gallery.members.values()} == {0, 1, 2}
    assert config_of("e2b-judge-places-newcomers").judge.later_rounds == "oracle"
    assert not config_of("e2c-policy-stays-out").gallery.policy_joins
    assert not config_of("e2d-frozen-rewards").reward.refresh
    founders = config_of("e2e-one-round-of-founders")
    assert founders.run.rounds == 1
    assert set(config_of("e2f-one-round-of-all").gallery.members) == set(first.gallery.members)


def test_a_difference_is_between_the_same_seeds_with_the_error_of_its_spread() -> None:
    gains = {"a": {0: 0.3, 1: 0.5}, "b": {0: 0.1, 1: 0.1}}
    assert differences_of("a", "b", gains) == pytest.approx((0.3, 0.1))
    assert differences_of("a", "b", {"a": {0: 0.3}, "b": {0: 0.1, 1: 0.1}}) is None  # one pair has no spread


def test_a_run_copies_from_the_one_that_shares_most_with_it(tmp_path: Path) -> None:
    assert reuse_of("quickstart", {"full": []}, "full", 0, tmp_path) == []
    for name, overrides in (("flip-10", ["judge.flip=0.1"]), ("late-steps", []), ("full", ["run.seed=1"])):
        config = load_config("quickstart", [f"run.dir={tmp_path}", f"run.name={name}-0", *overrides])
        prepare_folder(config, resume=False)
        open_store(config.store_url, create=True)
        (config.run_folder / "results.json").write_text("{}")
    variants = {
        "flip-10": ["judge.flip=0.1"],
        "late-steps": [],
        "few": ["policy.updates=3"],
        "other": ["prompts.gallery=50", "evaluation.seed=5", "evaluation.denoising_images=0"],
    }
    assert reuse_of("quickstart", variants, "few", 0, tmp_path) == ["--reuse", str(tmp_path / "late-steps-0")]
    assert reuse_of("quickstart", variants, "flip-10", 0, tmp_path) == ["--reuse", str(tmp_path / "flip-10-0")]
    assert reuse_of("quickstart", variants, "other", 0, tmp_path) == []
