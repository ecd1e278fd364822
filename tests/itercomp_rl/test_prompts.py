"""Prompts: training and held-out ones never mix, files are read strictly."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.prompts import file_prompts, held_out_prompts, prompts_to_show, training_prompts, user_prompts
from itercomp_rl.shapes.scenes import parse, split_of

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
