"""Which settings name local paths, and that each of them means one place whoever reads it."""

from pathlib import Path
from typing import Any

import pytest

from cluster.local_paths import settled
from itercomp_rl.config.load import load_config, to_tree
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@pytest.mark.parametrize(
    ("job", "start"),
    [
        (None, "here"),
        ("{}", "here"),
        ('{"runtime_env": {"working_dir": "gcs://_ray_pkg_0a1b.zip"}}', "home"),
    ],
)
def test_a_relative_folder_lies_where_it_stays(
    job: str | None, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(JOB, raising=False)
    if job is not None:
        monkeypatch.setenv(JOB, job)
    assert settled(load_config("tiny")).run_folder == tmp_path / start / "runs" / "tiny"
    kept = settled(load_config("tiny", [f"run.dir={tmp_path / 'own'}"]))
    assert kept.run_folder == tmp_path / "own" / "tiny"


MODELS = (
    "policy.model",
    "gallery.members.base.model",
    "gallery.members.grounded.grounding",
    "gallery.planners.chat.model",
    "judge.reward_models.spatial",
    "judge.t2i_compbench.spacy",
    "judge.t2i_compbench.vqa",
    "judge.t2i_compbench.clip",
    "judge.t2i_compbench.detector",
    "judge.t2i_compbench.depth",
    "judge.vlm.model",
    "evaluation.reward_models.spatial",
    "evaluation.t2i_compbench.vqa",
    "reward.trunk",
)
FILES = {  # always local: setting -> what it may be called
    "run.dir": "runs",
    "store.url": "my store",
    "prompts.train_file": "train #1.txt",
    "prompts.test_file": "test.json",
    "judge.first_round": "ranks.csv",
    "gallery.members.closed.model": "images of others",
}


def at(config: Config, key: str) -> Any:  # Any: a setting
    found: Any = to_tree(config)
    for step in key.split("."):
        found = found[step]
    return found


def settings(key: str, value: str) -> Config:
    grounded = "{model: m, num_steps: 3, system: instance_diffusion, planner: rule, grounding: x}"
    members = [f"gallery.members.grounded={grounded}", "gallery.planners.chat={kind: transformers, model: x}"]
    members.append("gallery.members.closed={system: folder, model: x}")
    return load_config("tiny", [*members, f"{key}={value}"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("here/models/own", "home/models/own"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(JOB, raising=False)
    return tmp_path / "here"


@pytest.mark.parametrize("key", MODELS)
def test_a_model_that_is_here_becomes_absolute_and_one_that_is_not_stays_a_hub_id(key: str, here: Path) -> None:
    for typed in ("models/own", "./models/own", "models/own/", str(here / "models/own")):
        assert at(settled(settings(key, typed)), key) == str(here / "models/own"), typed
    assert at(settled(settings(key, "~/models/own")), key) == str(here.parent / "home/models/own")
    for typed in ("owner/name", "owner/name:file.pth", "name", "embedded:base"):
        assert at(settled(settings(key, typed)), key) == typed


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("typed", ["./owner/name", "../name", "~/owner/name", "/owner/name"])
def test_what_begins_as_a_path_does_is_never_a_hub_id(key: str, typed: str, here: Path) -> None:
    assert Path(at(settled(settings(key, typed)), key)).is_absolute()


@pytest.mark.parametrize("key", FILES)
def test_a_path_that_can_be_nothing_else_becomes_absolute_whether_it_is_there_or_not(key: str, here: Path) -> None:
    name = FILES[key]
    for typed, place in ((name, here / name), (f"./{name}", here / name), (f"~/{name}", here.parent / "home" / name)):
        assert at(settled(settings(key, typed)), key) == (place.as_uri() if key == "store.url" else str(place))


def test_a_folder_of_rank_files_keeps_its_slash(here: Path) -> None:
    assert settled(settings("judge.first_round", "~/ranks/")).judge.first_round == f"{here.parent / 'home/ranks'}/"
    assert settled(settings("judge.first_round", "oracle")).judge.first_round == "oracle"


@pytest.mark.parametrize("url", ["s3://bucket/run", "file:///somewhere/store", "memory://", "null"])
def test_an_address_with_a_scheme_stays_as_it_is(url: str, here: Path) -> None:
    assert settled(settings("store.url", url)).store.url == (None if url == "null" else url)


def test_names_that_are_no_paths_stay_though_there_are_such_folders(here: Path) -> None:
    for name in ("policy", "gpt", "click"):
        (here / name).mkdir()
    assert settled(settings("gallery.members.base.model", "policy")).gallery.members["base"].model == "policy"
    far = "gallery.planners.far={kind: openai, model: gpt, url: 'http://localhost:8000/v1'}"
    assert settled(load_config("tiny", [far])).gallery.planners["far"].model == "gpt"
    served = "gallery.members.served={system: endpoint, endpoint: hall, model: gpt, size_px: 8}"
    hall = "gallery.endpoints.hall={url: 'http://localhost:8000/v1'}"
    assert settled(load_config("tiny", [served, hall])).gallery.members["served"].model == "gpt"
    seer = ["judge.vlm.model=models/own", "judge.vlm.url=http://localhost:8000/v1"]
    assert settled(load_config("tiny", seer)).judge.vlm.model == "models/own"
    found = settled(settings("judge.t2i_compbench.spacy", "click")).judge.t2i_compbench.spacy
    assert found == "click"  # an installed package, which spaCy takes before a folder


@pytest.mark.parametrize("key", [*MODELS, *FILES])
def test_a_home_folder_that_nobody_has_is_refused_with_the_setting(key: str, here: Path) -> None:
    name = "~no-such-user/ranks/" if key == "judge.first_round" else "~no-such-user/x"
    with pytest.raises(ConfigError, match=f"{key} is '{name}': there is no such home folder"):
        settled(settings(key, name))


def test_in_a_job_what_the_working_folder_holds_is_every_process_s_own_copy(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JOB, '{"runtime_env": {"working_dir": "gcs://_ray_pkg_0a1b.zip"}}')
    (here.parent / "home" / "mine").mkdir()
    for typed in ("models/own", "./models/own"):
        config = settled(settings("policy.model", typed))
        assert config.policy.model == "./models/own"  # no hub id, and the same in the next job's copy
        assert settled(config) == config
    assert settled(settings("policy.model", "mine")).policy.model == str(here.parent / "home" / "mine")
    assert settled(settings("policy.model", "owner/name")).policy.model == "owner/name"
    assert settled(settings("store.url", "mystore")).store.url == (here.parent / "home" / "mystore").as_uri()


def test_settling_twice_changes_nothing(here: Path) -> None:
    for key, value in FILES.items():
        config = settled(settings(key, value))
        assert settled(config) == config


def test_checkpoints_of_scorers_become_absolute_and_their_kinds_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_config(
        "tiny",
        [
            *(
                "reward.trunk=pickscore:clip",
                "policy.frozen_rewards.pick.source=hpsv2:./hps.pt",
                "evaluation.reward_models.spatial=hpsv2",
            ),
            *("judge.reward_models.attribute=python:a.b:C", "judge.reward_models.spatial=http://h/s"),
        ],
    )
    found = settled(config)
    assert found.reward.trunk == f"pickscore:{tmp_path}/clip"
    assert found.policy.frozen_rewards["pick"].source == f"hpsv2:{tmp_path}/hps.pt"
    assert found.judge.reward_models == config.judge.reward_models
    assert found.evaluation.reward_models == {"spatial": "hpsv2"}
