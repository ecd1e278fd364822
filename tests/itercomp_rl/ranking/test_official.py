import json
import random
from pathlib import Path

import pytest

from itercomp_rl.judges.rank_files import load_ranks
from itercomp_rl.ranking.official import places_of_rank, rank_of_places, save_official_ranks
from itercomp_rl.ranking.ranking import (
    Places,
    Ranking,
)

GALLERY = ["sd15", "sdxl", "sd3", "flux", "rpg", "instancediffusion"]


SEEDS = range(20)


def untied(*models: str) -> Places:
    return tuple((model,) for model in models)


def test_an_official_rank_names_models_counting_from_one_best_first() -> None:
    assert places_of_rank([4, 3, 5, 2, 1, 6], GALLERY) == untied(
        "flux", "sd3", "rpg", "sdxl", "sd15", "instancediffusion"
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_an_official_rank_survives_the_way_there_and_back(seed: int) -> None:
    rank = random.Random(seed).sample(range(1, 7), 6)
    assert rank_of_places(places_of_rank(rank, GALLERY), GALLERY) == rank
    assert places_of_rank("".join(map(str, rank)), GALLERY) == places_of_rank(rank, GALLERY)


@pytest.mark.parametrize(
    ("rank", "complaint"),
    [
        ([1, 2, 3], r"leaves out \['flux', 'rpg', 'instancediffusion'\]"),
        ([], "leaves out"),
        ([1, 2, 3, 4, 5, 5], r"\[5\] more than once"),
        ([0, 1, 2, 3, 4, 5], "holds 0.*from 1"),
        ([1, 2, 3, 4, 5, 7], r"holds \[7\].*no such model"),
        ([1, 2, 3, 4, 5, -6], r"holds \[-6\].*no such model"),
        ([1, 2, 3, 4, 5, 6.0], r"holds 6\.0"),
        ([1, 2, 3, 4, 5, True], "holds True"),
        ("12345x", "holds 'x'"),
        (None, "must be a list"),
    ],
)
def test_a_rank_that_does_not_name_every_model_once_is_refused(rank: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        places_of_rank(rank, GALLERY)


def test_a_gallery_with_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        places_of_rank([1, 2], ["a", "a"])


def test_a_tie_cannot_be_written_as_an_official_rank() -> None:
    with pytest.raises(ValueError, match="tied"):
        rank_of_places((("a", "b"),), ["a", "b"])


def test_places_of_another_gallery_cannot_be_written_as_a_rank() -> None:
    with pytest.raises(ValueError, match="the gallery is"):
        rank_of_places(untied("a", "b"), ["a", "b", "c"])


def test_an_official_file_survives_the_way_there_and_back(tmp_path: Path) -> None:
    rankings = [
        Ranking(prompt_id="12", aspect="attribute", places=untied("sdxl", "sd15")),
        Ranking(prompt_id="007", aspect="attribute", places=untied("sd15", "sdxl")),
    ]
    path = tmp_path / "attribute.json"
    save_official_ranks(path, rankings, ["sd15", "sdxl"], {"12": "a green bench", "007": "a spy’s red hat"})
    ranks = load_ranks(path, ["attribute"], ["sd15", "sdxl"])
    assert list(ranks.values()) == [one.places for one in rankings]
    assert json.loads(path.read_text(encoding="utf-8"))[0] == {
        "index": 12,
        "prompt": "a green bench",
        "image_sd15": "images/sd15_prompt_12.png",
        "image_sdxl": "images/sdxl_prompt_12.png",
        "rank": [2, 1],
    }
    with pytest.raises(FileExistsError):
        save_official_ranks(path, rankings, ["sd15", "sdxl"], {"12": "", "007": ""})


def test_what_official_files_cannot_hold_is_not_written(tmp_path: Path) -> None:
    one = Ranking(prompt_id="1", aspect="attribute", places=untied("a"))
    other = Ranking(prompt_id="1", aspect="spatial", places=untied("a"))
    with pytest.raises(ValueError, match="mix aspects"):
        save_official_ranks(tmp_path / "x.json", [one, other], ["a"], {"1": ""})
    with pytest.raises(ValueError, match=r"prompts lack \['1'\]"):
        save_official_ranks(tmp_path / "x.json", [one], ["a"], {})
    assert not list(tmp_path.iterdir())
