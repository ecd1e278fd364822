"""No config grades a run by what it learns from, or scores two aspects by one number, unless it says so."""

from pathlib import Path

import pytest

from itercomp_rl.config.judging_sources import evaluation_sources, for_evaluation, ranking_sources, self_grading
from itercomp_rl.config.load import config_of_run, load_config, preset
from itercomp_rl.errors import ConfigError

ALLOWED = "evaluation.allow_self_grading=true"
THREE = [f"judge.reward_models.{aspect}=ranks-{aspect}" for aspect in ("attribute", "spatial", "non_spatial")]
OTHERS = [f"evaluation.reward_models.{aspect}=grades-{aspect}" for aspect in ("attribute", "spatial", "non_spatial")]
BENCH = ("vqa", "clip", "detector", "depth")


@pytest.mark.parametrize("name", sorted(path.stem for path in preset("base").parent.glob("*.yaml")))
def test_no_shipped_config_does(name: str) -> None:
    config = load_config(name)
    assert self_grading(config) == []
    assert not config.evaluation.allow_self_grading


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["judge.first_round=reward"], "judge.first_round scores attribute and spatial and non_spatial by one and the"),
        (["judge.later_rounds=reward", "evaluation.judge=reward"], "evaluation.judge scores attribute and spatial"),
        (["evaluation.judge=reward", *OTHERS[:2]], "grades non_spatial by embedded:conv_trunk, .* is reward.trunk"),
        (
            ["judge.first_round=reward", *THREE, "evaluation.judge=reward"],
            "grades attribute by ranks-attribute, .*ranks",
        ),
        (["judge.first_round=t2i_compbench", "evaluation.judge=t2i_compbench"], "grades attribute by Salesforce/blip"),
        (["judge.later_rounds=t2i_compbench", "evaluation.judge=t2i_compbench"], "grades attribute by Salesforce"),
        (
            [
                *("judge.first_round=t2i_compbench", "evaluation.judge=t2i_compbench"),
                *(f"evaluation.t2i_compbench.{name}=other-{name}" for name in BENCH if name != "depth"),
            ],
            "grades spatial by depth-anything",
        ),
    ],
)
def test_a_config_that_does_is_refused_unless_it_says_that_it_is_meant(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"{reason}.*evaluation.allow_self_grading=true"):
        load_config("tiny", overrides)
    assert self_grading(load_config("tiny", [*overrides, ALLOWED]))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["judge.first_round=ranks/"],
        ["judge.first_round=reward", *THREE, "evaluation.judge=reward", *OTHERS],
        ["judge.first_round=t2i_compbench"],
        ["judge.first_round=t2i_compbench", "evaluation.judge=reward", *OTHERS],
        [
            *("judge.first_round=t2i_compbench", "evaluation.judge=t2i_compbench"),
            *(f"evaluation.t2i_compbench.{name}=other-{name}" for name in BENCH),
        ],
        ["prompts.aspects=[spatial]", "judge.first_round=reward", "evaluation.judge=oracle"],
    ],
)
def test_judges_that_share_nothing_are_allowed(overrides: list[str]) -> None:
    config = load_config("tiny", overrides)
    ranking, grading = ranking_sources(config), evaluation_sources(config)
    assert not {model for models in ranking.values() for model in models} & {
        model for models in grading.values() for model in models
    }


def test_the_evaluation_has_models_of_its_own_where_it_names_them() -> None:
    own = ["evaluation.t2i_compbench.clip=mine", "evaluation.reward_models.spatial=graded"]
    config = load_config("tiny", [*THREE, *own])
    found = for_evaluation(config).judge
    assert (found.t2i_compbench.clip, found.t2i_compbench.vqa) == ("mine", config.judge.t2i_compbench.vqa)
    assert found.reward_models == config.judge.reward_models | {"spatial": "graded"}


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (
            "evaluation.t2i_compbench.mode=best",
            "evaluation.t2i_compbench.mode is 'best': must be one of official, fixed",
        ),
        ("evaluation.t2i_compbench.threshold=1", "evaluation.t2i_compbench.threshold"),
        ("evaluation.reward_models.colour=x", "evaluation.reward_models is 'colour'"),
        ("judge.margins.colour=0", "judge.margins is 'colour'"),
        ("judge.margins.spatial=-1", "judge.margins.spatial is -1"),
    ],
)
def test_a_wrong_setting_of_these_is_refused_by_its_name(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config("tiny", [override])


def test_a_run_that_was_begun_before_the_rule_is_still_read(tmp_path: Path) -> None:
    old = preset("tiny").read_text(encoding="utf-8")
    old = old.replace("evaluation: {", "evaluation: {judge: reward, ") + "judge: {first_round: reward}\n"
    (tmp_path / "config.yaml").write_text(old)
    assert self_grading(config_of_run(tmp_path / "config.yaml"))
    (tmp_path / "config.yaml").write_text(preset("tiny").read_text(encoding="utf-8"))
    assert not config_of_run(tmp_path / "config.yaml").evaluation.allow_self_grading
