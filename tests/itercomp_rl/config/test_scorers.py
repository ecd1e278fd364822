"""Names of scorers: what each stands for, which are one source, and where each may be used."""

from pathlib import Path

import pytest

from itercomp_rl.config.judging_sources import fixed_scorers, self_grading
from itercomp_rl.config.load import config_of_run, load_config, preset, to_tree
from itercomp_rl.config.scorer_names import PUBLISHED, ScorerName, identity, parse_scorer
from itercomp_rl.errors import ConfigError

TERM = "policy.frozen_rewards.pick"
ONE_ASPECT = "prompts.aspects=[attribute]"
ALLOWED = "evaluation.allow_self_grading=true"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *((kind, ScorerName(kind, checkpoint)) for kind, checkpoint in PUBLISHED.items()),
        ("pickscore:mine/folder", ScorerName("pickscore", "mine/folder")),
        ("hpsv2:owner/name:file.pt", ScorerName("hpsv2", "owner/name:file.pt")),
        ("owner/name:file.pt", ScorerName("", "owner/name:file.pt")),
        ("embedded:trunk", ScorerName("", "embedded:trunk")),
        ("./pickscore", ScorerName("", "./pickscore")),
        ("python:a.b:C", ScorerName("python", "a.b:C")),
        ("http://h/score", ScorerName("http", "http://h/score")),
    ],
)
def test_a_name_says_kind_and_checkpoint(source: str, name: ScorerName) -> None:
    assert parse_scorer(source) == name


@pytest.mark.parametrize(
    "names",
    [
        ("pickscore", f"pickscore:{PUBLISHED['pickscore']}", f"clipscore:{PUBLISHED['pickscore']}"),
        ("imagereward", "zai-org/ImageReward:ImageReward.pt", "THUDM/ImageReward:ImageReward.pt"),
        ("http://host:80/score/", "http://HOST/score", "HTTP://host/score"),
    ],
)
def test_names_of_one_source_are_one(names: tuple[str, ...]) -> None:
    assert len(set(map(identity, names))) == 1


def test_paths_of_one_file_are_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    names = ("pickscore:clip", "pickscore:./clip", f"clipscore:{tmp_path}/clip", f"pickscore:{tmp_path}/x/../link")
    (tmp_path / "x").mkdir()
    assert len(set(map(identity, names))) == 1


def test_other_sources_stay_apart() -> None:
    names = [*PUBLISHED, "python:a:B", "python:a:C", "http://h/a", "http://h/b", "https://h/a", "http://h:81/a"]
    assert len(set(map(identity, names))) == len(names)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["evaluation.judge=reward", "evaluation.reward_models.attribute=pickscore", f"{TERM}.source=pickscore"],
            "grades attribute by pickscore, which also is policy.frozen_rewards.pick, which the policy climbs",
        ),
        (
            [
                *("evaluation.judge=reward", "evaluation.reward_models.attribute=pickscore"),
                f"reward.trunk=clipscore:{PUBLISHED['pickscore']}",
            ],
            "grades attribute by pickscore, which also is reward.trunk",
        ),
        (
            [
                *("judge.first_round=reward", "judge.reward_models.attribute=imagereward", "evaluation.judge=reward"),
                "evaluation.reward_models.attribute=THUDM/ImageReward:ImageReward.pt",
            ],
            "grades attribute by THUDM/ImageReward:ImageReward.pt, which also ranks the gallery",
        ),
        (
            [f"evaluation.metrics.pick=clipscore:{PUBLISHED['pickscore']}", "reward.trunk=pickscore"],
            "evaluation.metrics.pick is clipscore:.*, which also is reward.trunk",
        ),
        (
            [
                *("judge.first_round=reward", "judge.reward_models.attribute=http://h/s/", "evaluation.judge=reward"),
                "evaluation.reward_models.attribute=http://H:80/s",
            ],
            "grades attribute by http://H:80/s, which also ranks the gallery",
        ),
    ],
)
def test_a_source_under_another_name_is_still_no_independent_judge(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config("tiny", [ONE_ASPECT, *overrides])
    assert self_grading(load_config("tiny", [ONE_ASPECT, *overrides, ALLOWED]))


def test_clips_cosine_is_one_source_for_the_benchmark_and_for_clipscore() -> None:
    bench = ["judge.first_round=t2i_compbench", "prompts.aspects=[non_spatial]", "evaluation.judge=reward"]
    with pytest.raises(ConfigError, match="grades non_spatial by clipscore, which also ranks the gallery"):
        load_config("tiny", [*bench, "evaluation.reward_models.non_spatial=clipscore"])
    load_config("tiny", [*bench, "evaluation.reward_models.non_spatial=hpsv2"])


def test_two_aspects_by_two_names_of_one_model_are_refused() -> None:
    same = [
        "judge.reward_models.attribute=pickscore",
        f"judge.reward_models.spatial=pickscore:{PUBLISHED['pickscore']}",
    ]
    with pytest.raises(ConfigError, match="scores attribute and spatial by one and the same source, pickscore"):
        load_config("tiny", ["prompts.aspects=[attribute,spatial]", "judge.first_round=reward", *same])


def test_disjoint_scorers_are_allowed_together() -> None:
    config = load_config(
        "tiny",
        [
            *(ONE_ASPECT, "judge.first_round=reward", "judge.reward_models.attribute=http://localhost:9/score"),
            *("reward.trunk=pickscore", f"{TERM}.source=aesthetic", "policy.frozen_rewards.b.source=python:a.b:C"),
            *(
                "evaluation.judge=reward",
                "evaluation.reward_models.attribute=hpsv2",
                "evaluation.metrics.clip=clipscore",
            ),
        ],
    )
    assert fixed_scorers(config) == {
        "reward.trunk": "pickscore",
        "judge.reward_models.attribute": "http://localhost:9/score",
        "evaluation.reward_models.attribute": "hpsv2",
        "evaluation.metrics.clip": "clipscore",
        f"{TERM}.source": "aesthetic",
        "policy.frozen_rewards.b.source": "python:a.b:C",
    }
    assert to_tree(config)["policy"]["frozen_rewards"]["pick"] == {"source": "aesthetic", "weight": 1.0, "target": None}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["reward.trunk=http://h/s"], "reward.trunk is 'http://h/s', a scorer that runs in a process of its own"),
        (["reward.trunk=python:a:B"], "reward.trunk is 'python:a:B', a scorer that may compute anything"),
        ([f"{TERM}.source=http://h/s"], "pick.source is 'http://h/s': no gradient comes back over HTTP"),
        ([f"{TERM}.source=python:a.B"], "pick.source is 'python:a.B': must be python:package.module:Class"),
        ([f"{TERM}.source=pickscore", f"{TERM}.weight=0"], "pick.weight is 0.0: must be above 0"),
        ([f"{TERM}.source=pickscore", f"{TERM}.target=.inf"], "pick.target is inf: must be finite"),
        (["policy.frozen_rewards.spatial.source=pickscore"], "is an aspect"),
        (["policy.frozen_rewards.Pick.source=pickscore"], "a term's name has small letters"),
        ([f"{TERM}.source=pickscore", f"{TERM}.scale=2"], "unknown key policy.frozen_rewards.pick.scale"),
        (
            [f"{TERM}.source=pickscore", "policy.frozen_rewards.b.source=pickscore:yuvalkirstain/PickScore_v1"],
            "b.source is .* is what policy.frozen_rewards.pick climbs already",
        ),
        (["judge.reward_models.spatial=http://user:secret@h/s"], "judge.reward_models.spatial holds a user name"),
        (["judge.reward_models.spatial=http://h/s?token=1"], "judge.reward_models.spatial holds a query"),
        (["judge.reward_models.spatial=http://"], "judge.reward_models.spatial is 'http://': must be an address"),
        (["evaluation.metrics.a-b=hpsv2"], "evaluation.metrics.a-b is 'a-b': a metric's name has small letters"),
        (["evaluation.metrics.a=python:x"], "evaluation.metrics.a is 'python:x': must be python:"),
        (["evaluation.reward_models.spatial=python:x"], "evaluation.reward_models.spatial is 'python:x'"),
    ],
)
def test_a_scorer_that_cannot_do_what_its_place_asks_is_refused_by_its_setting(
    overrides: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config("tiny", overrides)


def test_a_run_of_earlier_software_has_no_frozen_rewards(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(preset("tiny").read_text(encoding="utf-8"))
    assert config_of_run(tmp_path / "config.yaml").policy.frozen_rewards == {}
