"""Held-out prompts that were trained on are found, near copies too, and readers are told."""

from itercomp_rl.config.load import load_config
from itercomp_rl.evaluation.overlap import overlap, overlap_of, overlap_sentence
from itercomp_rl.plan import Plan


def test_near_copies_count_and_repeated_prompts_count_once() -> None:
    held_out = ["A red  cup", "caf\u00e9", "a cat", "a cat", "a dog"]
    found = overlap(held_out, ["a red cup ", "cafe\u0301", "a cats", "a horse"])
    assert found.tree() == {"prompts": 4, "trained_on": 2, "example": "A red  cup"}
    assert "2 of 4 held-out prompts were trained on too, such as 'A red  cup'" in str(overlap_sentence(found.tree()))


def test_prompts_without_a_copy_need_no_word() -> None:
    tree = overlap(["a cat"], ["a dog"]).tree()
    assert tree == {"prompts": 1, "trained_on": 0, "example": None}
    assert overlap_sentence(tree) is None
    assert overlap_sentence({}) is None, "results.json of earlier software counts none"


def test_the_splits_of_the_world_share_no_prompt() -> None:
    found = overlap_of(Plan(config=load_config("tiny")))
    assert found.num_prompts > 8
    assert found.num_trained_on == 0
