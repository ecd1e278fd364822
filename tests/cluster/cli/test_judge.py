"""`itercomp judge` shows what a vision-language model says about a user's images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cluster.main import main
from tests.parts.json_server import Reply, json_server
from tests.parts.vlm_server import image_of, said_with, statement_of

PROMPT = "a red cup left of a dog"


def reply(body: dict[str, Any]) -> Reply:
    if statement_of(body) == "a dog" and image_of(body)[0, 0, 0] > 100:
        return 400, "content filter"
    return said_with(0.8 if image_of(body)[0, 0, 0] > 100 else 0.25)


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "dark.png", tmp_path / "light [1].png"]
    for path, value in zip(paths, (10, 200), strict=True):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    return [str(path) for path in paths]


def judge(*words: str) -> Result:
    return CliRunner().invoke(main, ["judge", *words])


def test_questions_answers_and_scores_of_every_image(images: list[str]) -> None:
    with json_server(reply) as (url, _):
        found = judge(*images, "--prompt", PROMPT, "--url", url, "--model", "m", "--json")
        table = judge(*images, "--prompt", PROMPT, "--url", url, "--model", "m")
    assert found.exit_code == 0, found.output
    dark, light = json.loads(found.stdout)
    assert [one["question"] for one in dark["questions"]] == [
        "Does this picture show a red cup?",
        "Does this picture show a dog?",
        "Does this picture show a red cup to the left of a dog?",
    ]
    assert dark["scores"] == pytest.approx({"attribute": 0.25, "spatial": 0.25})
    assert light["scores"] == pytest.approx({"spatial": 0.8})  # the refused question has no answer to guess
    assert light["questions"][1]["how"] == "refused"
    assert table.exit_code == 0, table.output
    for words in ("light [1].png", "Does this picture show a dog?", "0.800", "not judged", "content filter"):
        assert words in table.stdout.replace("\n", " ")


def test_only_the_aspects_that_are_asked_for(images: list[str]) -> None:
    with json_server(reply) as (url, asked):
        words = ("--prompt", PROMPT, "--url", url, "--model", "m", "--aspect", "spatial", "--json")
        assert judge(images[0], *words).exit_code == 0
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "judge.vlm.model is null"),
        (("--model", "m", "--url", "nowhere"), "judge.vlm.url is 'nowhere'"),
        (
            ("--model", "m", "--url", "http://localhost:1/v1", "--key-env", "NO_SUCH_KEY"),
            "'NO_SUCH_KEY'.*is not set here",
        ),
        (("--model", "/no/such/model"), "'/no/such/model' cannot be loaded"),
    ],
)
def test_bad_settings_are_one_line_that_names_them(images: list[str], words: tuple[str, ...], why: str) -> None:
    found = judge(images[0], "--prompt", PROMPT, *words)
    assert found.exit_code in (2, 3)
    assert "Traceback" not in found.stderr
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(found.stderr)


def test_a_file_that_is_no_image_and_a_prompt_that_says_nothing_are_named(images: list[str], tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no image")
    with json_server(reply) as (url, _):
        broken = judge(str(tmp_path / "no.png"), "--prompt", PROMPT, "--url", url, "--model", "m")
        empty = judge(images[0], "--prompt", "and", "--url", url, "--model", "m")
    assert (broken.exit_code, empty.exit_code) == (2, 2)
    assert "no.png' cannot be read" in broken.stderr
    assert "--prompt is 'and': it states nothing that can be asked" in empty.stderr
