"""Ranks of people from files: what is read, what is refused and with which reason."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.rank_files import RankFileJudge, check_coverage, load_ranks

GALLERY = ("sd15", "sdxl", "sd3")
PROMPT = Prompt(id="p1", text="a red cup", aspects=("spatial",))
IMAGES = {name: np.zeros((2, 2, 3), np.uint8) for name in GALLERY}


def write(folder: Path, content: Any, name: str = "spatial.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def ranks_of(path: Path, aspects=("spatial",)):
    return load_ranks(path, aspects, GALLERY)


def judge(path: Path, images=IMAGES, prompt: Prompt = PROMPT):
    found = RankFileJudge(ranks_of(path), ("spatial",)).judge(prompt, images)
    return found["spatial"].ranking.places if found else None


def test_numbers_count_the_gallery_from_1(tmp_path: Path) -> None:
    path = write(tmp_path, [{"index": 0, "prompt": "a red cup", "rank": [3, 1, 2]}])
    assert judge(path) == (("sd3",), ("sd15",), ("sdxl",))


def test_numbers_count_an_items_own_images_where_it_names_them(tmp_path: Path) -> None:
    item = {"prompt": "a red cup", "image_sdxl": "x.png", "image_sd15": "y.png", "rank": [2, 1]}
    assert judge(write(tmp_path, [item])) == (("sd15",), ("sdxl",))


def test_a_prompt_is_found_by_its_text_or_its_id(tmp_path: Path) -> None:
    assert judge(write(tmp_path, [{"index": "p1", "rank": [1, 2, 3]}])) is not None
    assert judge(write(tmp_path, [{"prompt": "another", "rank": [1, 2, 3]}], "b.json")) is None


def test_csv_holds_ties_and_leaves_models_out(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt,aspect,model,place\na red cup,spatial,sd3,1\na red cup,spatial,sd15,1\n", "r.csv")
    assert judge(path) == (("sd3", "sd15"),)


def test_raters_of_one_prompt_are_averaged(tmp_path: Path) -> None:
    rows = ["prompt,model,place,rater"]
    rows += [f"a red cup,{m},{p},ann" for m, p in (("sd15", 1), ("sdxl", 2), ("sd3", 3))]
    rows += [f"a red cup,{m},{p},bob" for m, p in (("sd15", 2), ("sdxl", 1), ("sd3", 3))]
    assert judge(write(tmp_path, "\n".join(rows), "spatial.csv")) == (("sd15", "sdxl"), ("sd3",))


def test_a_ranked_image_that_is_missing_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "a red cup", "rank": [3, 1, 2]}])
    assert judge(path, {"sdxl": IMAGES["sdxl"], "sd3": IMAGES["sd3"]}) == (("sd3",), ("sdxl",))
    assert judge(path, {}) is None


def test_people_give_places_and_no_scores(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "a red cup", "rank": [1, 2, 3]}])
    assert RankFileJudge(ranks_of(path), ("spatial",)).judge(PROMPT, IMAGES)["spatial"].scores == {}


def test_a_folder_holds_one_file_per_aspect(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": "a red cup", "rank": [1, 2, 3]}])
    write(tmp_path, "prompt,model,place\na red cup,sd3,1\na red cup,sd15,2\n", "attribute.csv")
    found = load_ranks(tmp_path, ("attribute", "spatial"), GALLERY)
    assert found["a red cup", "attribute"] == (("sd3",), ("sd15",))
    assert found["a red cup", "spatial"] == (("sd15",), ("sdxl",), ("sd3",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"prompt": "a", "rank": [0, 1, 2]}], "holds 0: ranks count models from 1"),
        ([{"prompt": "a", "rank": [1, 1, 2]}], r"holds \[1\] more than once"),
        ([{"prompt": "a", "rank": [1, 2]}], "leaves out"),
        ([{"prompt": "a", "rank": [1, 2, 4]}], "no such model"),
        ([{"prompt": "a", "rank": [1, 2, 3]}] * 2, "a second time"),
        ([{"prompt": "a", "image_dalle": "x", "rank": [1]}], "'dalle', which is no model of gallery.members"),
        ([{"prompt": "a"}], "no 'rank'"),
        ([{"rank": [1, 2, 3]}], "neither 'prompt' nor 'index'"),
        ([7], "must be an object"),
        ({"rank": []}, "holds a dict: must be a list"),
        ("[{]", "is not JSON"),
        ([], "ranks nothing under spatial"),
        ([{"prompt": "a", "aspect": "attribute", "rank": [1, 2, 3]}], "ranks nothing under spatial"),
    ],
)
def test_a_bad_json_file_is_refused_with_its_reason(content: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        ranks_of(write(tmp_path, content))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("prompt,model\na,sd15\n", "has no column place"),
        ("prompt,model,place\na,sd15,0\n", "counting from 1"),
        ("prompt,model,place\na,sd15,first\n", "counting from 1"),
        ("prompt,model,place\na,sd15,1\na,sd15,2\n", "line 3 gives 'sd15' a second place"),
        ("prompt,model,place\na,dalle,1\n", "'dalle', which is no model"),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_reason(rows: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        ranks_of(write(tmp_path, rows, "spatial.csv"))


def test_missing_and_ambiguous_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such rank file"):
        ranks_of(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="neither of spatial.json and spatial.csv"):
        ranks_of(tmp_path)
    path = write(tmp_path, [{"prompt": "a", "rank": [1, 2, 3]}])
    with pytest.raises(ConfigError, match="has no 'aspect'"):
        ranks_of(path, ("spatial", "attribute"))


def test_ranks_of_other_prompts_are_refused_before_a_run(tmp_path: Path) -> None:
    ranks = ranks_of(write(tmp_path, [{"prompt": "a red cup", "rank": [1, 2, 3]}]))
    other = Prompt(id="p2", text="a blue cup", aspects=("spatial",))
    assert check_coverage("x", ranks, [PROMPT, other], ["spatial"]) == {"spatial": 1}
    with pytest.raises(ConfigError, match="ranks none of the 1 gallery prompts under spatial"):
        check_coverage("x", ranks, [other], ["spatial"])
