"""`itercomp evaluate t2i-compbench` on tiny models of the real classes: files, table, resuming, refusals."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cluster.main import main
from itercomp_rl.evaluation.t2i_compbench.files import image_name
from itercomp_rl.prompt_sets.compbench import CATEGORIES
from tests.parts.judge_checkpoints import make_aesthetic_head, make_clip, make_depth, make_detector, make_vqa
from tests.parts.spacy_pipeline import spacy_pipeline

PROMPTS = {
    "color": ["a red circle and a blue square", "a green cup/a bowl"],
    "shape": ["a square box and a round ball"],
    "texture": ["a metallic car and a wooden desk"],
    "spatial": ["a cat on the left of a dog"],
    "3d_spatial": ["a cat in front of a dog"],
    "numeracy": ["two dogs"],
    "non_spatial": ["A woman is speaking on the phone."],
    "complex": ["The black chair is on top of the blue rug.", "The sleek black cat sat next to the white pillow."],
}


def invoke(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["evaluate", "t2i-compbench", *arguments])
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The prompts and the metrics' models, as arguments."""
    folder = tmp_path_factory.mktemp("judges")
    (folder / "prompts").mkdir()
    for category, prompts in PROMPTS.items():
        (folder / "prompts" / f"{category}_val.txt").write_text("\r\n".join(prompts))
    head = make_aesthetic_head(folder / "head.pth", 16)
    clip = make_clip(folder / "clip")
    models = {
        "spacy": spacy_pipeline(),
        "vqa": make_vqa(folder / "vqa"),
        "clip": clip,
        "detector": make_detector(folder / "detector"),
        "depth": make_depth(folder / "depth"),
    }
    return [
        *("--prompts", str(folder / "prompts"), "--images", "2", "--steps", "2"),
        *("--clip-score", "--aesthetic", str(head), "--aesthetic-clip", str(clip), "--image-reward", "embedded:trunk"),
        *(f"judge.t2i_compbench.{name}={value}" for name, value in models.items()),
    ]


@pytest.fixture(scope="module")
def evaluated(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("out") / "bench"
    code, output = invoke("--model", "tiny=embedded:base", "--out", str(out), *settings)
    assert code == 0, output
    return out, output


def test_images_and_results_lie_where_the_benchmarks_tools_expect_them(evaluated: tuple[Path, str]) -> None:
    out, _ = evaluated
    names = {path.name for path in (out / "tiny" / "color" / "samples").iterdir()}
    assert names == {image_name(prompt, 2 * i + n) for i, prompt in enumerate(PROMPTS["color"]) for n in range(2)}
    for category, where in {
        "color": "annotation_blip",
        "spatial": "labels/annotation_obj_detection_2d",
        "3d_spatial": "labels/annotation_obj_detection_3d",
        "numeracy": "annotation_num",
        "non_spatial": "annotation_clip",
        "complex": "annotation_3_in_1",
    }.items():
        rows = json.loads((out / "tiny" / category / where / "vqa_result.json").read_text())
        assert [row["question_id"] for row in rows] == list(range(2 * len(PROMPTS[category])))


def test_three_in_one_is_made_of_the_three_results(evaluated: tuple[Path, str]) -> None:
    folder = evaluated[0] / "tiny" / "complex"

    def answers(where: str) -> list[float]:
        return [float(row["answer"]) for row in json.loads((folder / where / "vqa_result.json").read_text())]

    attribute, spatial, action = map(answers, ("annotation_blip", "annotation_obj_detection", "annotation_clip"))
    found = answers("annotation_3_in_1")
    assert found[0] == pytest.approx((attribute[0] + spatial[0]) / 2)  # "on top of": a spatial prompt
    assert found[2] == pytest.approx((attribute[2] + spatial[2] + action[2]) / 3)  # "sat next to": both


def test_the_table_names_what_is_not_comparable_with_n_and_errors(evaluated: tuple[Path, str]) -> None:
    out, output = evaluated
    tree = json.loads((out / "table.json").read_text())
    assert set(tree["models"]["tiny"]) == {*CATEGORIES, "clip_score", "aesthetic", "image_reward"}
    assert tree["models"]["tiny"]["color"]["n"] == 4
    assert tree["models"]["tiny"]["clip_score"]["n"] == 2 * sum(map(len, PROMPTS.values()))
    not_comparable = {name for name, column in tree["columns"].items() if not column["comparable"]}
    assert not_comparable == {"spatial", "3d_spatial", "numeracy", "complex"}
    with (out / "table.csv").open() as file:
        assert {row["column"]: float(row["mean"]) for row in csv.DictReader(file)} == {
            name: mean["mean"] for name, mean in tree["models"]["tiny"].items()
        }
    page = (out / "table.html").read_text()
    assert "in place of UniDet" in page and "spatial*" in page
    assert "not comparable" in " ".join(output.split())  # wherever the terminal's width breaks the line


def test_a_second_model_joins_the_table_and_nothing_is_drawn_again(
    evaluated: tuple[Path, str], settings: list[str]
) -> None:
    out, _ = evaluated
    samples = sorted((out / "tiny").rglob("*.png"))
    times = [path.stat().st_mtime_ns for path in samples]
    code, output = invoke(
        *("--model", "tiny=embedded:base", "--model", "other=embedded:spatial", "--category", "color"),
        *("--out", str(out), *settings),
    )
    assert code == 0, output
    assert [path.stat().st_mtime_ns for path in samples] == times
    tree = json.loads((out / "table.json").read_text())
    assert set(tree["models"]) == {"tiny", "other"}
    assert "complex" in tree["models"]["tiny"] and "complex" not in tree["models"]["other"]


def test_a_folder_of_other_settings_is_refused(evaluated: tuple[Path, str], settings: list[str]) -> None:
    code, output = invoke("--model", "a=embedded:base", "--out", str(evaluated[0]), *settings, "--steps", "3")
    assert code == 2
    assert "another num_steps" in output


def test_a_name_keeps_its_model(evaluated: tuple[Path, str], settings: list[str]) -> None:
    code, output = invoke("--model", "tiny=embedded:spatial", "--out", str(evaluated[0]), *settings)
    assert code == 2
    assert "another model" in output


def test_a_gallery_member_is_evaluated_as_it_draws(evaluated: tuple[Path, str], settings: list[str]) -> None:
    member = "gallery.members.boxes={model: 'embedded:base', num_steps: 2, guidance: 7.5, system: rpg, planner: rule}"
    code, output = invoke(
        *("--model", "rpg=member:boxes", "--category", "spatial", "--out", str(evaluated[0]), *settings, member)
    )
    assert code == 0, output
    plain, planned = (sorted((evaluated[0] / name / "spatial" / "samples").iterdir()) for name in ("tiny", "rpg"))
    assert [path.name for path in planned] == [path.name for path in plain]
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(plain, planned, strict=True))
    code, output = invoke("--model", "x=member:nobody", "--out", str(evaluated[0]), *settings)
    assert (code, "has no 'nobody'" in output) == (2, True), output


@pytest.mark.slow
def test_sampler_actors_draw_what_one_process_draws_and_go_on_where_they_stopped(
    evaluated: tuple[Path, str], settings: list[str], tmp_path: Path
) -> None:
    arguments = (*settings, "--out", str(tmp_path), "--category", "color", "--category", "complex")
    code, output = invoke("--model", "tiny=embedded:base", *arguments, "actors.samplers.count=2", "gallery.batch=3")
    assert code == 0, output
    for category in ("color", "complex"):
        alone, shared = (sorted((out / "tiny" / category / "samples").iterdir()) for out in (evaluated[0], tmp_path))
        assert [path.name for path in shared] == [path.name for path in alone]
        for one, other in zip(alone, shared, strict=True):
            assert np.abs(np.asarray(Image.open(one)).astype(int) - np.asarray(Image.open(other))).max() <= 1
    shared[0].unlink()
    times = [path.stat().st_mtime_ns for path in shared[1:]]
    code, output = invoke("--model", "tiny=embedded:base", *arguments, "actors.samplers.count=2")
    assert code == 0, output
    assert shared[0].exists()
    assert [path.stat().st_mtime_ns for path in shared[1:]] == times


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--model", "a/b=embedded:base"], 2, "NAME=SOURCE"),
        (["--model", "x=embedded:none"], 3, "not shipped"),
        (["--model", "x=embedded:base", "--category", "colour"], 2, "--category is 'colour'"),
        (["--model", "x=embedded:base", "--shard", "2/2"], 2, "must be I/N"),
        (["--model", "x=embedded:base", "judge.t2i_compbench.mode=best"], 2, "official, fixed"),
        (["--model", "x=embedded:base", "--prompts", "nowhere"], 2, "cannot be read"),
    ],
)
def test_a_mistake_ends_with_its_reason_and_writes_nothing(
    arguments: list[str], code: int, reason: str, tmp_path: Path
) -> None:
    pytest.importorskip("spacy", reason="the metrics need spaCy")
    found, output = invoke(*arguments, "--out", str(tmp_path / "out"))
    assert (found, reason in output) == (code, True), output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mistake", "code", "reason"),
    [
        (["--aesthetic", "nowhere.pth"], 3, "no such file"),
        (["--image-reward", "nowhere.pt"], 3, "--image-reward is 'nowhere.pt'"),
        (["--aesthetic-clip", "/nowhere/clip"], 3, "/nowhere/clip"),
        (["judge.t2i_compbench.spacy=no_such_words"], 2, "python -m spacy download"),
        (["judge.t2i_compbench.depth=/nowhere/depth"], 3, "judge.t2i_compbench.depth"),
    ],
)
def test_a_metric_that_cannot_be_had_is_told_before_anything_is_drawn(
    mistake: list[str], code: int, reason: str, settings: list[str], tmp_path: Path
) -> None:
    found, output = invoke("--model", "tiny=embedded:base", *settings, "--out", str(tmp_path / "out"), *mistake)
    assert (found, reason in " ".join(output.split())) == (code, True), output
    assert not (tmp_path / "out").exists()


def test_one_prompt_has_no_error_and_the_table_is_json_all_the_same(settings: list[str], tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for _ in range(2):  # the second call takes the scores of the first from the table
        code, output = invoke(
            *("--model", "tiny=embedded:base", "--category", "color", "--limit", "1", "--out", str(tmp_path), *settings)
        )
        assert code == 0, output
        tree = json.loads((tmp_path / "table.json").read_text(), parse_constant=refuse)
        assert tree["models"]["tiny"]["color"]["se"] is None
        assert tree["models"]["tiny"]["color"]["n"] == 2
        assert "± - (2)" in (tmp_path / "table.html").read_text()


def test_a_folder_of_images_draws_no_prompt_of_the_benchmark(settings: list[str], tmp_path: Path) -> None:
    closed = f"gallery.members.closed={{system: folder, model: '{tmp_path}'}}"
    code, output = invoke("--model", "closed=member:closed", "--out", str(tmp_path / "bench"), *settings, closed)
    assert code == 2
    assert "'closed' is a folder of images, which draws no prompt of the benchmark" in output
    assert not (tmp_path / "bench").exists()
