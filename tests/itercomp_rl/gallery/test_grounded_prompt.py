"""Where a layout's phrases stand in the text that the encoder reads."""

import pytest

from itercomp_rl.gallery.grounded_prompt import grounded_prompt
from itercomp_rl.gallery.planning.layout import Box, Layout
from tests.parts.checkpoints import word_tokenizer

TOKENIZER = word_tokenizer(length=12)


def layout(prompt: str, *phrases: str) -> Layout:
    places = ((i / 10, (i + 1) / 10) for i in range(len(phrases)))
    boxes = [Box(phrase=p, left=a, top=0, right=b, bottom=1) for p, (a, b) in zip(phrases, places, strict=True)]
    return Layout(prompt=prompt, boxes=tuple(boxes))


def test_tokens_are_counted_behind_the_begin_mark() -> None:
    # <bos> a red cup left of a blue ball: a red cup are 1 2 3, a blue ball are 6 7 8
    found = grounded_prompt(TOKENIZER, layout("a red cup left of a blue ball", "a red cup", "blue ball"))
    assert [(item.phrase, item.tokens, item.word) for item in found.objects] == [
        ("a red cup", (1, 2, 3), 3),
        ("blue ball", (7, 8), 8),
    ]
    assert found.text == "a red cup left of a blue ball"


def test_a_phrase_that_the_prompt_lacks_is_written_behind_it() -> None:
    found = grounded_prompt(TOKENIZER, layout("a cup", "a cup", "green dog"))
    assert found.text == "a cup| green dog"
    assert [item.phrase for item in found.objects] == ["a cup", "green dog"]


def test_the_order_of_boxes_does_not_change_the_text() -> None:
    forth = grounded_prompt(TOKENIZER, layout("a cup", "green dog", "blue cat"))
    back = grounded_prompt(TOKENIZER, layout("a cup", "blue cat", "green dog"))
    assert forth.text == back.text


def test_boxes_of_one_phrase_are_one_object() -> None:
    found = grounded_prompt(TOKENIZER, layout("a cat and a cat", "a cat", "a cat"))
    assert [len(item.boxes) for item in found.objects] == [2]


@pytest.mark.parametrize("length", [9, 500])
def test_a_phrase_behind_the_last_word_that_is_read_is_told(length: int) -> None:
    # 12 tokens with two marks: words 1 to 10 are read, so "a dog" after 9 others ends one too far
    found = grounded_prompt(TOKENIZER, layout("red " * length + "a dog", "a dog", "red"))
    assert found.unseen == ("a dog",)
    assert [item.phrase for item in found.objects] == ["red"]


def test_the_last_word_that_is_read_counts_as_seen() -> None:
    assert grounded_prompt(TOKENIZER, layout("red " * 8 + "a dog", "a dog")).unseen == ()
