"""The shipped benchmark: splits share no prompt, categories say what prompts are about, any part has all kinds."""

from collections import Counter
from dataclasses import replace

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.prompt_sets.compbench import BENCHMARK, CATEGORIES, aspects_of, read_split
from itercomp_rl.prompts import held_out_prompts, same_text, training_prompts

CONFIG = replace(load_config("base").prompts, source="t2i_compbench", gallery=90, policy=5000)


def test_no_training_prompt_is_held_out_but_for_case_blanks_and_points() -> None:
    train, test = ({same_text(text).rstrip(".") for text, _ in read_split(split)} for split in ("train", "test"))
    assert not train & test
    assert (len({text for text, _ in read_split("train")}), len({text for text, _ in read_split("test")})) == (
        5553,
        2400,
    )


@pytest.mark.parametrize("category", CATEGORIES)
def test_files_hold_one_clean_prompt_a_line(category: str) -> None:
    for end, num in (("train", 700), ("val", 300)):
        content = (BENCHMARK / f"{category}_{end}.txt").read_bytes()
        assert b"\r" not in content
        assert b"\t" not in content
        lines = content.decode().split("\n")
        assert (len(lines), lines[-1]) == (num + 1, "")
        assert all(line and line == line.strip() for line in lines[:-1])


@pytest.mark.parametrize(
    ("category", "prompt", "aspects"),
    [
        ("color", "a red car and a blue train", ("attribute",)),
        ("3d_spatial", "a car in front of a man", ("spatial",)),
        ("numeracy", "two rabbits and two backpacks", ("spatial",)),
        ("non_spatial", "A car is honking on the street.", ("non_spatial",)),
        ("complex", "The round clock was on top of the white nightstand.", ("attribute", "spatial")),
        ("complex", "The fluffy snow covered the icy ground.", ("attribute", "non_spatial")),
        ("complex", "The sleek limousine pulled up next to the red carpet.", ASPECTS),
    ],
)
def test_a_category_says_what_its_prompts_are_about(category: str, prompt: str, aspects: tuple[str, ...]) -> None:
    assert aspects_of(category, prompt) == aspects


def test_the_first_part_of_any_size_has_as_many_prompts_of_every_aspect() -> None:
    gallery, policy = training_prompts(CONFIG, seed=3)
    assert policy[:90] == gallery
    assert len({prompt.id for prompt in policy}) == 5000
    for num in (3, 30, 90):
        least = min(Counter(aspect for prompt in gallery[:num] for aspect in prompt.aspects).values())
        assert least >= num // 3


def test_held_out_prompts_are_the_validation_prompts() -> None:
    chosen = held_out_prompts(CONFIG, 20, seed=1)
    test = dict(read_split("test"))
    assert {prompt.text for prompt, _ in chosen} <= test.keys()
    for aspect in ASPECTS:
        assert sum(aspect in prompt.aspects for prompt, _ in chosen) >= 20


def test_aspects_that_a_run_has_not_leave_their_prompts_out() -> None:
    gallery, _ = training_prompts(replace(CONFIG, aspects=["spatial"], policy=2000), seed=0)
    assert {prompt.aspects for prompt in gallery} == {("spatial",)}
    with pytest.raises(ConfigError, match=r"prompts.policy is 5000, but T2I-CompBench has \d+ training prompts about"):
        training_prompts(replace(CONFIG, aspects=["spatial"]), seed=0)


@pytest.mark.parametrize("name", ["train_file", "policy_file", "test_file"])
def test_a_file_beside_the_benchmark_is_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(ConfigError, match=f"prompts.{name} is 'a.txt' .*set prompts.source=files"):
        load_config("sdxl_lora_1gpu", [f"prompts.{name}=a.txt"])
