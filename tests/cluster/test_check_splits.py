"""A run whose prompts cannot measure what it learns is refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.checks import check_splits
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.plan import Plan

JUDGES = ("judge.first_round=reward", "evaluation.judge=reward", "evaluation.allow_self_grading=true")
FILES = ("prompts.source=files", *JUDGES)
SIZES = ("prompts.gallery=8", "prompts.policy=4", "evaluation.images_per_aspect=4")
BOTH = ["attribute", "spatial"]


def rows(texts: list[str], *aspects: str) -> list[dict[str, Any]]:
    return [{"text": text, "aspects": list(aspects)} for text in texts]


def plan(folder: Path, train: list[Any], test: list[Any], *overrides: str) -> Plan:
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "test.json").write_text(json.dumps(test))
    files = [f"prompts.{name}_file={folder / name}.json" for name in ("train", "test")]
    return Plan(config=load_config("tiny", [*FILES, *SIZES, *files, "prompts.aspects=[attribute,spatial]", *overrides]))


TRAIN = [f"a red cup {i}" for i in range(8)]
TEST = [f"a blue ball {i}" for i in range(4)]


def test_splits_that_share_nothing_are_fine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_splits(plan(tmp_path, TRAIN, TEST))
    check_splits(Plan(config=load_config("tiny")))
    assert not caplog.records


def test_an_aspect_without_a_held_out_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'spatial', but none of the 4 held-out prompts .*prompts.test_file"):
        check_splits(plan(tmp_path, TRAIN, rows(TEST, "attribute")))


def test_an_aspect_without_a_gallery_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'attribute', but none of the 8 gallery prompts .*prompts.train_file"):
        check_splits(plan(tmp_path, rows(TRAIN, "spatial"), rows(TEST, *BOTH)))


def test_held_out_prompts_about_other_aspects_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts.test_file: .* about none of prompts.aspects"):
        check_splits(plan(tmp_path, TRAIN, rows(TEST, "non_spatial")))


def test_held_out_prompts_that_are_all_trained_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompts.test_file is .*: all 4 held-out prompts are trained on too"):
        check_splits(plan(tmp_path, TRAIN, [text.upper() for text in TRAIN[:4]]))


def test_some_that_are_trained_on_are_counted_with_an_example(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_splits(plan(tmp_path, TRAIN, [*TEST[:3], TRAIN[0]]))
    assert "1 of 4 held-out prompts were trained on too, such as 'a red cup 0'" in caplog.text


def test_prompts_of_the_policy_alone_are_trained_on_too(tmp_path: Path) -> None:
    (tmp_path / "policy.jsonl").write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in TEST))
    with pytest.raises(ConfigError, match="all 4 held-out prompts are trained on too"):
        check_splits(plan(tmp_path, TRAIN, TEST, f"prompts.policy_file={tmp_path / 'policy.jsonl'}"))


PROBED = ("evaluation.probe_every=2", "evaluation.probe_images=4")


def test_prompts_of_probes_that_are_all_trained_on_are_refused_and_some_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "validation.txt").write_text("".join(f"{text.upper()}\n" for text in TRAIN[:3]))
    overrides = (*PROBED, f"prompts.validation_file={tmp_path / 'validation.txt'}")
    with pytest.raises(ConfigError, match="all 2 prompts of its probes are trained on too"):
        check_splits(plan(tmp_path, TRAIN, TEST, *overrides))
    (tmp_path / "validation.txt").write_text(f"{TRAIN[0]}\na green hat\n")
    check_splits(plan(tmp_path, TRAIN, TEST, *overrides))
    assert "1 of 2 prompts of the probes are trained on too, such as 'a red cup 0'" in caplog.text


def test_probes_that_draw_nothing_about_an_aspect_are_refused(tmp_path: Path) -> None:
    (tmp_path / "validation.json").write_text(json.dumps(rows(["a green hat"], "attribute")))
    with pytest.raises(ConfigError, match="holds no prompt about 'spatial' that is no test prompt"):
        check_splits(plan(tmp_path, TRAIN, TEST, *PROBED, f"prompts.validation_file={tmp_path / 'validation.json'}"))
    check_splits(Plan(config=load_config("tiny", list(PROBED[:1]))))
