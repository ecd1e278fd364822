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


def ranked(*rank: int, **more: Any) -> dict[str, Any]:
    """An item of the official form, of the whole gallery."""
    return {"prompt": "a red cup", **{f"image_{name}": f"{name}.png" for name in GALLERY}, "rank": [*rank], **more}


def ranks_of(path: Path, aspects=("spatial",)):
    return load_ranks(path, aspects, GALLERY)


def judge(path: Path, images=IMAGES, prompt: Prompt = PROMPT):
    found = RankFileJudge(ranks_of(path), ("spatial",)).judge(prompt, images)
    return found["spatial"].ranking.places if found else None


def test_numbers_are_an_order_and_count_the_images_from_1(tmp_path: Path) -> None:
    path = write(tmp_path, [ranked(3, 1, 2, index=0)])
    assert judge(path) == (("sd3",), ("sd15",), ("sdxl",))


def test_numbers_count_an_items_own_images_where_it_names_them(tmp_path: Path) -> None:
    item = {"prompt": "a red cup", "image_sdxl": "x.png", "image_sd15": "y.png", "rank": [2, 1]}
    assert judge(write(tmp_path, [item])) == (("sd15",), ("sdxl",))


def test_a_prompt_is_found_by_its_text_or_its_id(tmp_path: Path) -> None:
    assert judge(write(tmp_path, [ranked(1, 2, 3, prompt=None, index="p1")])) is not None
    assert judge(write(tmp_path, [ranked(1, 2, 3, prompt="another")], "b.json")) is None


def test_csv_holds_ties_and_leaves_models_out(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt,aspect,model,place\na red cup,spatial,sd3,1\na red cup,spatial,sd15,1\n", "r.csv")
    assert judge(path) == (("sd3", "sd15"),)


def test_raters_of_one_prompt_are_averaged(tmp_path: Path) -> None:
    rows = ["prompt,model,place,rater"]
    rows += [f"a red cup,{m},{p},ann" for m, p in (("sd15", 1), ("sdxl", 2), ("sd3", 3))]
    rows += [f"a red cup,{m},{p},bob" for m, p in (("sd15", 2), ("sdxl", 1), ("sd3", 3))]
    assert judge(write(tmp_path, "\n".join(rows), "spatial.csv")) == (("sd15", "sdxl"), ("sd3",))


def test_a_ranked_image_that_is_missing_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, [ranked(3, 1, 2)])
    assert judge(path, {"sdxl": IMAGES["sdxl"], "sd3": IMAGES["sd3"]}) == (("sd3",), ("sdxl",))
    assert judge(path, {}) is None


def test_people_give_places_and_no_scores(tmp_path: Path) -> None:
    path = write(tmp_path, [ranked(1, 2, 3)])
    assert RankFileJudge(ranks_of(path), ("spatial",)).judge(PROMPT, IMAGES)["spatial"].scores == {}


def test_a_folder_holds_one_file_per_aspect(tmp_path: Path) -> None:
    write(tmp_path, [ranked(1, 2, 3)])
    write(tmp_path, "prompt,model,place\na red cup,sd3,1\na red cup,sd15,2\n", "attribute.csv")
    found = load_ranks(tmp_path, ("attribute", "spatial"), GALLERY)
    assert found["a red cup", "attribute"] == (("sd3",), ("sd15",))
    assert found["a red cup", "spatial"] == (("sd15",), ("sdxl",), ("sd3",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([ranked(0, 1, 2)], "holds 0: ranks count models from 1"),
        ([ranked(1, 1, 2)], r"holds \[1\] more than once"),
        ([ranked(1, 2)], "leaves out"),
        ([ranked(1, 2, 4)], "no such model"),
        ([ranked(1, 2, 3)] * 2, "a second time"),
        ([{"prompt": "a", "image_dalle": "x", "rank": [1]}], "'dalle', which is no model of gallery.members"),
        ([{"prompt": "a"}], "no 'rank'"),
        ([{"rank": [1, 2, 3]}], "neither 'prompt' nor 'index'"),
        ([7], "must be an object"),
        ({"rank": []}, "holds a dict: must be a list"),
        ("[{]", "is not JSON"),
        ([], "ranks nothing under spatial"),
        ([ranked(1, 2, 3, aspect="attribute")], "ranks nothing under spatial"),
        ([ranked(1, 2, 3, aspect="Spatial")], "item 0 has the aspect 'Spatial'.*the nearest is 'spatial'"),
        (
            [ranked(1, 2, 3, aspect="non-spatial")],
            "'non-spatial'.*attribute, spatial, non_spatial.*nearest is 'non_spatial'",
        ),
        ([ranked(1, 2.5, 3)], r"holds 2\.5: must be whole numbers"),
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
        ("prompt,model,place\na,SDXL,1\n", "'SDXL', which is no model.*the nearest is 'sdxl'"),
        ("prompt,model,place\na,sd15,1.5\n", "line 2: place is '1.5': must be a whole number"),
        ("prompt,model,place\na,sd15,\n", "line 2: place is ''"),
        ("prompt,model,place\n,sd15,1\n", "line 2 has neither 'prompt' nor 'index'"),
        (
            "prompt,model,place\na cup, red,sd15,1\n",
            "line 2 has 4 cells and the first line 3: put a prompt that holds ','",
        ),
        ("prompt,model,place\na,sd15\n", "line 2 has 2 cells"),
        ("prompt|model|place\na|sd15|1\n", r"its first line is 'prompt\|model\|place'.*parted by ',', ';' or a tab"),
        ("prompt,aspct,model,place\na,spatial,sd15,1\n", "has a column 'aspct': rename it, 'aspect'"),
        ("prompt,model,place,place\na,sd15,1,2\n", "has the column 'place' twice"),
        ("prompt,aspect,model,place\na,spatail,sd15,1\n", "line 2 has the aspect 'spatail'.*nearest is 'spatial'"),
        ('prompt,model,place\n"a\nb",sd15,1\na,sd15,0\n', "line 4: place is '0'"),
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
    path = write(tmp_path, [ranked(1, 2, 3)])
    with pytest.raises(ConfigError, match="has no 'aspect'"):
        ranks_of(path, ("spatial", "attribute"))


def test_ranks_of_other_prompts_are_refused_before_a_run(tmp_path: Path) -> None:
    ranks = ranks_of(write(tmp_path, [ranked(1, 2, 3)]))
    other = Prompt(id="p2", text="a blue cup", aspects=("spatial",))
    assert check_coverage("x", ranks, [PROMPT, other], ["spatial"]) == {"spatial": 1}
    with pytest.raises(ConfigError, match="ranks none of the 1 gallery prompts under spatial"):
        check_coverage("x", ranks, [other], ["spatial"])


PLAIN = "prompt,model,place\na red cup,sdxl,1\na red cup,sd15,2\na red cup,sd3,3\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        b"sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n").encode(),
        PLAIN.replace(",", " , ").encode(),
        PLAIN.replace("a red cup", '" a red cup"').encode(),
        PLAIN.replace("1\n", "1.0\n").replace("2\n", "2.0\n").encode(),
        PLAIN.replace(",", ";").replace("1\n", "1,0\n").encode(),
        PLAIN.replace("prompt,model,place", "Prompt,Model,Place").encode(),
        PLAIN.replace("\n", ",,\n", 1)
        .replace("1\n", "1,,\n")
        .replace("2\n", "2,,\n")
        .replace("3\n", "3,,\n,,,,\n")
        .encode(),
        b"\n" + PLAIN.replace("\n", "\r").encode() + b"\r",
    ],
    ids=[
        "mark",
        "semicolons",
        "tabs",
        "sep=",
        "blanks",
        "quotes",
        "1.0",
        "1,0",
        "capitals",
        "empty columns",
        "old Mac",
    ],
)
def test_a_csv_is_read_as_excel_and_pandas_write_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "spatial.csv").write_bytes(content)
    assert judge(tmp_path / "spatial.csv") == (("sdxl",), ("sd15",), ("sd3",))


def test_a_json_may_begin_with_a_mark_and_hold_whole_floats(tmp_path: Path) -> None:
    path = tmp_path / "spatial.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([ranked(3.0, 1.0, 2.0)]).encode())  # type: ignore[arg-type]
    assert judge(path) == (("sd3",), ("sd15",), ("sdxl",))


def test_a_file_that_is_no_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "spatial.csv"
    path.write_bytes(PLAIN.replace("cup", "caf\xe9").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"spatial\.csv.*UTF-8"):
        ranks_of(path)


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "a red cup", "rank": [2, 3, 1]},
        {"prompt": "a red cup", "image_path": ["0.jpg", "1.jpg", "2.jpg"], "rank": [2, 3, 1]},
        {"prompt": "a red cup", "image_path": "0.jpg", "rank": [2, 3, 1]},
    ],
)
def test_numbers_that_count_no_named_images_are_refused_with_both_readings(item: Any, tmp_path: Path) -> None:
    # as an order: images 2, 3, 1; as places: image 3 is first, image 1 second, image 2 third
    with pytest.raises(ConfigError, match="item 0.*sdxl > sd3 > sd15 or sd3 > sd15 > sdxl") as refusal:
        ranks_of(write(tmp_path, [item]))
    assert "'path'" not in str(refusal.value)


def test_rows_of_another_aspect_of_the_project_do_not_count(tmp_path: Path) -> None:
    rows = PLAIN.replace("place", "place,aspect").replace("1\n", "1,attribute\n").replace("2\n", "2,spatial\n")
    assert judge(write(tmp_path, rows.replace("3\n", "3,\n"), "r.csv")) == (("sd15",), ("sd3",))


def test_a_file_of_a_folder_holds_the_aspect_in_its_name_alone(tmp_path: Path) -> None:
    write(tmp_path, [ranked(1, 2, 3, aspect="attribute")])
    with pytest.raises(ConfigError, match="holds ranks under attribute"):
        ranks_of(tmp_path)
