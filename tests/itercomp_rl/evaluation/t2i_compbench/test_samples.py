"""The benchmark's files: names, results, resuming; with drawing and scoring by plain functions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError
from itercomp_rl.evaluation.t2i_compbench.files import (
    image_name,
    parse_shard,
    pick,
    read_prompts,
    read_result,
    write_result,
)
from itercomp_rl.evaluation.t2i_compbench.samples import Group, draw_samples, samples_of, score_samples
from itercomp_rl.prompt_sets.compbench import BENCHMARK, CATEGORIES

NASTY = ["a cup/a bowl", "two\nlines", "../../etc", "..", "under_score", "x" * 500, "ü" * 300, 'a "b": c?', "100% red"]


class Drawing:
    """Draws flat images of the seed's brightness, and remembers what it was asked."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked: list[tuple[str, int]] = []
        self.dies_after = dies_after

    def __call__(self, groups: Sequence[Group]) -> Iterator[tuple[Group, NDArray[np.uint8]]]:
        for group in groups:
            if len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            self.asked += [(sample.prompt, sample.seed) for sample in group]
            yield group, np.stack([np.full((4, 4, 3), sample.seed, np.uint8) for sample in group])


def quiet(*_: object) -> None:
    pass


def draw(folder: Path, samples, drawing: Drawing, shard: tuple[int, int] = (0, 1)) -> None:
    draw_samples(folder, samples, drawing, batch=2, progress=quiet, shard=shard)


@given(st.text(min_size=1) | st.sampled_from(NASTY), st.integers(0, 999999))
def test_any_prompt_makes_a_name_that_any_file_system_takes(prompt: str, number: int) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is in no prompt file
    name = image_name(prompt, number)
    assert len(name.encode()) <= 255
    assert not any(c in name for c in '/\\\n\r\0:*?"<>|')
    assert not name.startswith(".")
    assert int(name.split("_")[-1].split(".")[0]) == number  # as the benchmark's tools read it
    assert name.count("_") == 1


def test_a_plain_prompt_keeps_its_words() -> None:
    assert image_name("a green bench and a red car", 12) == "a green bench and a red car_000012.png"


def test_different_prompts_have_different_names() -> None:
    assert len({image_name(prompt, 0) for prompt in [*NASTY, "x" * 501, "a cup%2Fa bowl"]}) == len(NASTY) + 2


def test_ten_images_a_prompt_are_numbered_on_and_seeded_from_42() -> None:
    samples = samples_of(["a", "b"], 10)
    assert [s.number for s in samples] == list(range(20))
    assert [s.seed for s in samples[10:]] == list(range(42, 52))


def test_an_interrupted_drawing_goes_on_and_draws_nothing_twice(tmp_path: Path) -> None:
    samples = samples_of(NASTY, 3)
    first, second = Drawing(dies_after=4), Drawing()
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, samples, first)
    draw(tmp_path, samples, second)
    assert first.asked + second.asked == [(s.prompt, s.seed) for s in samples]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {s.name for s in samples}
    listing = json.loads((tmp_path / "samples.json").read_text())
    assert [row["prompt"] for row in listing] == [s.prompt for s in samples]


def test_images_of_other_prompts_are_not_mixed_in(tmp_path: Path) -> None:
    draw(tmp_path, samples_of(["a", "b"], 2), Drawing())
    draw(tmp_path, samples_of(["a", "b"], 2), Drawing(dies_after=0))  # nothing is missing
    with pytest.raises(ConfigError, match="images of other prompts"):
        draw(tmp_path, samples_of(["a", "c"], 2), Drawing())


def test_shards_draw_everything_once_between_them(tmp_path: Path) -> None:
    samples, drawings = samples_of(["a", "b", "c", "d", "e"], 2), [Drawing() for _ in range(3)]
    for i, drawing in enumerate(drawings):
        draw(tmp_path, samples, drawing, (i, 3))
    assert sorted(a for d in drawings for a in d.asked) == sorted((s.prompt, s.seed) for s in samples)


def test_a_score_belongs_to_its_own_image_and_an_unfinished_metric_goes_on(tmp_path: Path) -> None:
    samples = samples_of(["a", "b"], 60)
    draw(tmp_path, samples, Drawing())
    seen: list[str] = []

    def brightness(prompt: str, image: NDArray[np.uint8]) -> float:
        if len(seen) == 110:
            seen.append("died")
            raise KeyboardInterrupt
        seen.append(prompt)
        return float(image.mean())

    with pytest.raises(KeyboardInterrupt):
        score_samples(tmp_path, "annotation_clip", samples, brightness, quiet)
    assert read_result(tmp_path / "annotation_clip") is None
    found = score_samples(tmp_path, "annotation_clip", samples, brightness, quiet)
    assert found == [float(s.seed) for s in samples]
    assert len(seen) == 110 + 1 + 20  # 100 of the first 110 were saved
    again = score_samples(tmp_path, "annotation_clip", samples, brightness, quiet)
    assert again == found and len(seen) == 131


def test_results_are_written_as_the_benchmarks_tools_write_them(tmp_path: Path) -> None:
    write_result(tmp_path / "annotation_blip", [0, 1], [0.5, 1 / 3])
    write_result(tmp_path / "annotation_clip", [0, 1], [0.5, 1 / 3])
    told = [
        json.loads((tmp_path / name / "vqa_result.json").read_text()) for name in ("annotation_blip", "annotation_clip")
    ]
    assert told[0] == [{"question_id": 0, "answer": "0.5000"}, {"question_id": 1, "answer": "0.3333"}]
    assert told[1] == [{"question_id": 0, "answer": 0.5}, {"question_id": 1, "answer": 1 / 3}]
    assert read_result(tmp_path / "annotation_blip") == {0: 0.5, 1: 0.3333}


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_shipped_prompts_are_300_a_category(category: str) -> None:
    assert len(read_prompts(BENCHMARK, category)) == 300


def test_bad_categories_shards_and_folders_are_refused(tmp_path: Path) -> None:
    assert pick([], CATEGORIES) == CATEGORIES
    assert pick(["complex", "color"], CATEGORIES) == ("color", "complex")
    with pytest.raises(ConfigError, match="'colour': must be one of color"):
        pick(["colour"], CATEGORIES)
    assert parse_shard("1/4") == (1, 4)
    for wrong in ("4/4", "1", "a/b", "-1/4"):
        with pytest.raises(ConfigError, match="must be I/N"):
            parse_shard(wrong)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path, "color")
    (tmp_path / "color_val.txt").write_text("\n\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        read_prompts(tmp_path, "color")


def test_a_list_of_the_benchmark_is_cut_at_tabs_and_nowhere_within_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "color_val.txt").write_bytes("\ufeffa red cup\tcup\r\na sign: HELLO\u2028WORLD\r\n\r\n".encode())
    assert read_prompts(tmp_path, "color") == ["a red cup", "a sign: HELLO\u2028WORLD"]
    (tmp_path / "color_val.txt").write_text('["a red cup"]')
    with pytest.raises(ConfigError, match="line 1 reads like JSON"):
        read_prompts(tmp_path, "color")
