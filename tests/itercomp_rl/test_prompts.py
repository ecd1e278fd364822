"""Prompts: the world's training and held-out ones never mix, files are read strictly."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import PromptsConfig
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.prompts import (
    check_prompt,
    file_prompts,
    held_out_prompts,
    probe_prompts,
    prompts_to_show,
    same_text,
    training_prompts,
    user_prompts,
    validation_pool,
    world_of,
)
from itercomp_rl.shapes.scenes import COLOURS, NON_SPATIAL, SHAPES, SPATIAL, parse, split_of

CONFIG = load_config("quickstart").prompts


def test_held_out_prompts_hold_no_combination_seen_in_training() -> None:
    gallery, policy = training_prompts(CONFIG, seed=0)
    held_out = [prompt for prompt, _ in held_out_prompts(CONFIG, 100, seed=1)]
    assert {split_of(parse(prompt.text).combination) for prompt in gallery + policy} == {"train"}
    assert {split_of(parse(prompt.text).combination) for prompt in held_out} == {"test"}


def test_held_out_prompts_reach_the_number_of_images_in_every_aspect() -> None:
    chosen = held_out_prompts(CONFIG, 400, seed=1)
    assert len(set(chosen)) == len(chosen), "an image is drawn twice from one seed"
    for aspect in CONFIG.aspects:
        assert sum(aspect in prompt.aspects for prompt, _ in chosen) >= 400


@pytest.mark.parametrize("num", [1, 3, 40])
@pytest.mark.parametrize(
    "kinds",
    [
        [["attribute"], ["spatial"], ["non_spatial"]],  # the paper's split
        [["spatial", "attribute"], ["attribute"], ["non_spatial", "attribute"]],
        [["attribute", "spatial"], ["spatial"], ["attribute"]],
        [["attribute", "spatial", "non_spatial"]],
        [["attribute", "spatial"], ["attribute", "non_spatial"], ["spatial"], ["non_spatial"]],
    ],
)
def test_held_out_prompts_of_files_do_too_however_their_aspects_lie(
    kinds: list[list[str]], num: int, tmp_path: Path
) -> None:
    rows = [{"text": f"prompt {i}", "aspects": kinds[i % len(kinds)]} for i in range(30)]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    file = str(tmp_path / "p.json")
    config = replace(CONFIG, source="files", train_file=file, test_file=file)
    chosen = held_out_prompts(config, num, seed=1)
    assert len(set(chosen)) == len(chosen)
    for aspect in {aspect for kind in kinds for aspect in kind}:
        assert sum(aspect in prompt.aspects for prompt, _ in chosen) >= num


def test_prompts_follow_from_the_seed() -> None:
    assert training_prompts(CONFIG, seed=0) == training_prompts(CONFIG, seed=0)
    assert training_prompts(CONFIG, seed=0) != training_prompts(CONFIG, seed=1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "\n  \n", "holds no prompt"),
        ("a.json", "{not json", "is not JSON"),
        ("a.json", '[{"text": ""}]', "entry 1 has no text"),
        ("a.json", '{"prompts": ["a cat"]}', "must hold a list"),
        ("a.json", '[{"text": "a cat", "aspects": "spatial"}]', "aspects of entry 1 are 'spatial'"),
        ("a.json", '["a cat", {"text": "a dog", "aspects": ["non-spatial"]}]', "aspects of entry 2 .* non_spatial"),
        ("a.json", '[{"text": "a cat", "aspects": []}]', "aspects of entry 1"),
        ("a.json", '[{"text": "a cat", "aspects": ["spatial", "spatial"]}]', "aspects of entry 1 .*each once"),
        ("a.csv", "text,aspects\na cat,attribute colour\n", "aspects of line 2 .* non_spatial"),
    ],
)
def test_an_unusable_prompt_file_is_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=reason):
        file_prompts(tmp_path / name, ["spatial"])


def test_a_missing_prompt_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        file_prompts("nowhere.txt", ["spatial"])


def test_repeated_prompts_count_once_and_json_rows_may_name_aspects(tmp_path: Path) -> None:
    rows = [{"text": "a cat"}, {"text": "a cat"}, {"text": "a dog left of a cat", "aspects": ["spatial"]}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    found = file_prompts(tmp_path / "p.json", ["attribute"])
    assert [(prompt.text, prompt.aspects) for prompt in found] == [
        ("a cat", ("attribute",)),
        ("a dog left of a cat", ("spatial",)),
    ]


def test_a_repeated_prompt_is_about_what_any_of_its_rows_names(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,aspect\na cat,spatial\na dog,spatial\na cat,attribute\n")
    found = file_prompts(tmp_path / "p.csv", ["attribute", "spatial"])
    assert [(prompt.text, prompt.aspects) for prompt in found] == [
        ("a cat", ("spatial", "attribute")),
        ("a dog", ("spatial",)),
    ]


def of_files(folder: Path, *, aspects: list[str], **files: list[dict[str, object]]) -> PromptsConfig:
    """Settings of prompts from JSON files: of_files(folder, aspects=["spatial"], train_file=[{"text": "a cat"}])."""
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    paths = {name: str(folder / f"{name}.json") for name in files}
    return replace(CONFIG, source="files", aspects=aspects, gallery=2, policy=2, **paths)


def test_aspects_that_a_run_has_not_do_not_count_and_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, object]] = [
        {"text": "a cat", "aspects": ["attribute", "non_spatial"]},
        {"text": "two dogs chase a cat", "aspects": ["non_spatial"]},
        {"text": "a dog"},
    ]
    config = of_files(tmp_path, aspects=["attribute", "spatial"], train_file=rows, test_file=rows)
    gallery, _ = training_prompts(config, seed=0)
    assert {prompt.text: prompt.aspects for prompt in gallery} == {
        "a cat": ("attribute",),
        "a dog": ("attribute", "spatial"),
    }
    assert "2 of 3 prompts are about aspects that prompts.aspects does not have, such as 'a cat'" in caplog.text
    assert "1 prompts that have no other are left out" in caplog.text
    assert {prompt.text for prompt, _ in held_out_prompts(config, 2, seed=0)} == {"a cat", "a dog"}


def test_a_file_about_other_aspects_only_is_refused_with_its_key(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "two dogs chase a cat", "aspects": ["non_spatial"]}]
    config = of_files(tmp_path, aspects=["spatial"], train_file=rows, test_file=rows)
    with pytest.raises(ConfigError, match=r"prompts.train_file: .* about none of prompts.aspects \(spatial\)"):
        training_prompts(config, seed=0)
    with pytest.raises(ConfigError, match=r"prompts.test_file: .* about none of prompts.aspects"):
        held_out_prompts(config, 2, seed=0)
    with pytest.raises(ConfigError, match="about none of prompts.aspects"):
        user_prompts(tmp_path / "test_file.json", config)


def test_the_policy_may_learn_from_other_prompts_than_the_ranked_ones(tmp_path: Path) -> None:
    ranked: list[dict[str, object]] = [{"text": "a cat"}, {"text": "a dog"}]
    own: list[dict[str, object]] = [{"text": f"a horse {i}"} for i in range(5)]
    config = of_files(tmp_path, aspects=["spatial"], train_file=ranked, policy_file=own)
    gallery, policy = training_prompts(replace(config, policy=5), seed=0)
    assert {prompt.text for prompt in gallery} == {"a cat", "a dog"}
    assert {prompt.text for prompt in policy} == {f"a horse {i}" for i in range(5)}
    assert all("horse" in prompt.text for prompt, _ in held_out_prompts(config, 5, seed=0, split="train"))


@pytest.mark.parametrize("key", ["train_file", "policy_file"])
def test_a_file_with_fewer_prompts_than_are_set_is_refused_with_both_keys(tmp_path: Path, key: str) -> None:
    rows: list[dict[str, object]] = [{"text": "a cat"}, {"text": "a dog"}]
    config = of_files(tmp_path, aspects=["spatial"], train_file=rows, **({key: rows} if key == "policy_file" else {}))
    with pytest.raises(ConfigError, match=f"prompts.policy is 3, but prompts.{key} .* holds 2 prompts"):
        training_prompts(replace(config, policy=3), seed=0)
    with pytest.raises(ConfigError, match="prompts.gallery is 3, but prompts.train_file .* holds 2 prompts"):
        training_prompts(replace(config, gallery=3), seed=0)


def test_texts_are_the_same_that_differ_in_case_blanks_or_composition() -> None:
    assert same_text("A  Caf\u00e9 \n") == same_text("a cafe\u0301")
    assert same_text("a cat") != same_text("a cats")


def test_a_prompt_of_bytes_that_are_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="bytes that are not UTF-8"):
        check_prompt("a red c\udcffp", replace(CONFIG, source="files"))


def test_a_prompt_outside_the_world_is_refused_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a photo of a cat")
    with pytest.raises(ConfigError, match="a red circle left of a blue square"):
        user_prompts(tmp_path / "p.txt", CONFIG)


def test_a_world_too_small_for_the_prompts_asked_for_is_refused() -> None:
    config = load_config("quickstart", ["prompts.world.relations=[and]", "prompts.gallery=5000"]).prompts
    with pytest.raises(ConfigError, match="lower the number"):
        training_prompts(config, seed=0)


@given(kinds=st.lists(st.integers(0, 2), max_size=40), num=st.integers(0, 12))
def test_prompts_to_show_are_different_ones_and_no_kind_is_left_out_that_has_room(kinds: list[int], num: int) -> None:
    aspects = [("attribute",), ("attribute", "spatial"), ("attribute", "non_spatial")]
    prompts = [Prompt(id=str(i // 2), text="", aspects=aspects[kinds[i // 2]]) for i in range(2 * len(kinds))]
    shown = [prompts[row] for row in prompts_to_show(prompts, num)]
    assert len({prompt.id for prompt in shown}) == len(shown) == min(num, len(kinds))
    assert shown[:1] == prompts[: min(num, 1)]
    of_kind = Counter(prompt.aspects for prompt in shown)
    for kind, number in Counter(kinds).items():
        least = min(number, num // len(set(kinds)))
        assert of_kind[aspects[kind]] >= least


@settings(deadline=None, max_examples=50)
@given(
    colours=st.sets(st.sampled_from(COLOURS), min_size=2),
    shapes=st.sets(st.sampled_from(SHAPES), min_size=2),
    relations=st.tuples(st.sampled_from(SPATIAL), st.sampled_from(NON_SPATIAL)),
    num=st.integers(3, 60),
    seed=st.integers(0, 9),
)
def test_probes_draw_no_combination_that_is_trained_or_tested_on_and_every_prompt_twice(
    colours: set[str], shapes: set[str], relations: tuple[str, str], num: int, seed: int
) -> None:
    world = replace(CONFIG.world, colours=sorted(colours), shapes=sorted(shapes), relations=["and", *relations])
    config = replace(CONFIG, world=world)
    if not world_of(config).combinations("validation"):
        with pytest.raises(ConfigError, match="prompts.world holds no prompt about 'attribute'"):
            probe_prompts(config, 2 * num, seed)
        return
    drawn = probe_prompts(config, 2 * num, seed)
    assert {split_of(parse(prompt.text).combination) for prompt, _ in drawn} == {"validation"}
    assert len(set(drawn)) == len(drawn) == 2 * num, "an image is drawn twice from one seed"
    assert [(prompt, repeat + 1) for prompt, repeat in drawn[::2]] == drawn[1::2]
    per_kind = Counter(prompt.aspects for prompt, _ in drawn)
    assert len(per_kind) == 3
    assert max(per_kind.values()) - min(per_kind.values()) <= 2 or num > len(validation_pool(config)) // 2


def test_of_files_a_share_of_the_policys_prompts_is_probed_and_nothing_learns_from_it(tmp_path: Path) -> None:
    ranked: list[dict[str, object]] = [{"text": f"a cat {i}"} for i in range(200)]
    own = [*ranked, *({"text": f"a horse {i}"} for i in range(400))]
    config = of_files(tmp_path, aspects=["spatial"], train_file=ranked, policy_file=own, test_file=own[:40])
    pool = {prompt.text for prompt in validation_pool(config)}
    gallery, policy = training_prompts(replace(config, gallery=100, policy=500), seed=0, spares_validation=True)
    assert 30 < len(pool) < 70  # binomial: 560 / 12 = 47, standard deviation 6.5
    assert pool.isdisjoint(prompt.text for prompt in gallery + policy)
    assert pool.isdisjoint(row["text"] for row in own[:40]), "a test prompt was probed"
    seen = held_out_prompts(config, 500, seed=1, split="train", spares_validation=True)
    assert pool.isdisjoint(prompt.text for prompt, _ in seen)
    whole, _ = training_prompts(replace(config, gallery=200), seed=0)
    assert len(whole) == 200, "without probes nothing is kept out of training"
    with pytest.raises(ConfigError, match="beside the one in 12 that is kept for probes.*validation_file"):
        training_prompts(replace(config, gallery=200), seed=0, spares_validation=True)


def test_a_validation_file_is_probed_without_its_test_prompts_and_training_stays_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: dict[str, list[dict[str, object]]] = {
        "train_file": [{"text": f"a cat {i}"} for i in range(90)],
        "validation_file": [{"text": f"a dog {i}"} for i in range(5)],
        "test_file": [{"text": "A dog  3"}, {"text": "a horse"}],
    }
    config = of_files(tmp_path, aspects=["spatial"], **rows)
    drawn = probe_prompts(config, 12, seed=0)
    assert {prompt.text for prompt, _ in drawn} == {f"a dog {i}" for i in (0, 1, 2, 4)}
    assert len(set(drawn)) == 12
    assert "1 prompts are not probed, as they are test prompts too" in caplog.text
    both = replace(config, gallery=90, policy=90)
    assert training_prompts(both, seed=0, spares_validation=True) == training_prompts(both, seed=0)
    assert {prompt.text for prompt, _ in held_out_prompts(config, 5, 0, "validation")} == {
        f"a dog {i}" for i in range(5)
    }
    of_its_own = replace(config, test_file=config.validation_file)
    with pytest.raises(ConfigError, match="holds no prompt about 'spatial' that is no test prompt"):
        validation_pool(of_its_own)
