"""Layouts written by a language model, against how LMD's code reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.layout_text import fit, read_answer


@pytest.fixture(scope="module")
def cases(parity_dir: Path) -> list[dict[str, Any]]:
    return json.loads((parity_dir / "lmd" / "parse.json").read_text())["cases"]


def test_answers_are_read_and_fitted_as_recorded(cases: list[dict[str, Any]]) -> None:
    sound = [case for case in cases if "official_error" not in case]
    assert sound
    for case in sound:
        objects, background, negative = read_answer(case["text"])
        parsed = case["parsed"]
        assert [[name, list(box)] for name, box in objects] == parsed["boxes"]
        assert (background, negative) == (parsed["background"], parsed["negative"])
        assert [(name, list(box)) for name, box in fit(objects)] == [
            (box["name"], box["box_xywh"]) for box in case["filtered"]
        ]


def test_answers_that_the_reference_refuses_are_refused(cases: list[dict[str, Any]]) -> None:
    broken = [case for case in cases if "official_error" in case]
    assert broken
    for case in broken:
        with pytest.raises(PlanError):
            read_answer(case["text"])
