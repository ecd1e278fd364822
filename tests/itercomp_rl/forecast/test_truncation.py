"""Prompts that are too long are counted for each of what reads them, by its own tokens."""

import logging
from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.forecast.truncation import check_lengths, text_readers, truncated
from tests.parts.checkpoints import make_sd3, make_sdxl

LONG = "a red circle left of a blue square and a green triangle and a yellow circle and a red cup"


def test_every_reader_is_asked_once_and_by_its_own_limit(tmp_path: Path) -> None:
    sdxl, sd3 = make_sdxl(tmp_path / "xl"), make_sd3(tmp_path / "3")
    members = [f"gallery.members.base.model={sdxl}", f"gallery.members.spatial.model={sd3}"]
    config = load_config("tiny", [f"policy.model={sdxl}", *members])
    limits = {reader.name: reader.limit for reader in text_readers(config)}
    # Words are tokens in these tokenizers, which read twelve; SD3's pipeline gives its T5 256 whatever that says.
    assert limits == {
        f"policy.model {sdxl}, tokenizer,": 12,
        f"policy.model {sdxl}, tokenizer_2,": 12,
        "gallery.members.attribute.model embedded:attribute, tokenizer,": 16,
        f"gallery.members.spatial.model {sd3}, tokenizer,": 12,
        f"gallery.members.spatial.model {sd3}, tokenizer_2,": 12,
        f"gallery.members.spatial.model {sd3}, tokenizer_3,": 256,
        "reward.trunk embedded:conv_trunk": 16,
    }


@pytest.mark.parametrize(("num_words", "is_cut"), [(9, False), (10, False), (11, True), (12, True)])
def test_the_marks_at_both_ends_count(tmp_path: Path, num_words: int, is_cut: bool) -> None:
    config = load_config("tiny", [f"policy.model={make_sdxl(tmp_path / 'xl')}"])
    reader = next(iter(text_readers(config)))
    assert bool(list(truncated([reader], [" ".join(["red"] * num_words)]))) is is_cut


def test_the_number_and_the_longest_are_told_and_repeated_texts_count_once(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config("tiny")
    with caplog.at_level(logging.WARNING):
        check_lengths(config, ["a red circle", LONG, f"{LONG} and a cup", LONG])
    found = [record.getMessage() for record in caplog.records]
    assert "policy.model embedded:base, tokenizer, reads 16 tokens: 2 of 3 prompts are longer and are cut" in found[0]
    assert "such as 'a red circle left of" in found[0]
    assert "reward.trunk embedded:conv_trunk reads 16 tokens: 2 of 3" in found[-1]


def test_a_run_may_be_refused_for_it(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config("tiny", ["prompts.on_truncation=error"])
    with pytest.raises(ConfigError, match=r"prompts.on_truncation is 'error', and policy.model .*1 of 1 prompts"):
        check_lengths(config, [LONG])
    check_lengths(config, ["a red circle"])
    assert not caplog.records


def test_another_word_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompts.on_truncation is 'stop': must be one of warn, error"):
        load_config("tiny", ["prompts.on_truncation=stop"])
