"""Data sets of preferences become rankings in a store: every published form, and every mistake with file and row."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from cluster.checks import check_preferences
from cluster.main import main
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ImageRef
from itercomp_rl.ranking.imported import load_pairs, open_preferences, take_in
from itercomp_rl.ranking.page.session import load_tasks
from itercomp_rl.ranking.pairs import PairRules
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.run import preference_records
from itercomp_rl.run.lineage import trace
from itercomp_rl.run.preference_files import Options
from itercomp_rl.run.preference_records import Found
from itercomp_rl.run.preferences_export import export_preferences
from itercomp_rl.run.preferences_import import import_preferences
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.store import Store, open_store
from tests.parts.small_run import small_run

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="itercomp-rl[data] is not installed")
RULES = PairRules(held_out=0.0, seed=0, margin=99.0, flip=0.5)  # of the judge's pairs, not of these
ANY = Options(aspects=("attribute",))


def pixels(value: int, width: int = 8, height: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(value: int, width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(value, width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def images_in(folder: Path, *values: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / f"{value}.png").write_bytes(png(value))


def jsonl(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def taken(source: Path, options: Options = ANY) -> tuple[Found, Store]:
    folder = source.parent / f"{source.name}-imported"
    found = import_preferences([source], folder, options)
    return found, open_preferences(str(folder))


def image(store: Store, ref: ImageRef) -> bytes:
    return ImageReader(store).load_each([ref])[0].tobytes()


def pairs(store: Store, aspect: str = "attribute") -> list[tuple[str, bytes, bytes]]:
    """(prompt, winner, loser), of all that is learned from."""
    train, kept = load_pairs(store, aspect, RULES)
    assert not kept
    return [(pair.prompt.text, image(store, pair.winner), image(store, pair.loser)) for pair in train]


def expected(*stated: tuple[str, int, int]) -> list[tuple[str, bytes, bytes]]:
    return [(prompt, pixels(winner).tobytes(), pixels(loser).tobytes()) for prompt, winner, loser in stated]


def test_pairs_of_files_beside_a_jsonl_file(tmp_path: Path) -> None:
    images_in(tmp_path / "images", 1, 2, 3)
    source = jsonl(
        tmp_path / "own.jsonl",
        {"prompt": "a cup", "winner": "images/1.png", "loser": "images/2.png", "note": "any other column"},
        {"text": "a box", "winner": "images/3.png", "loser": "images/1.png"},
    )
    found, store = taken(source)
    assert (found.rankings, found.images) == (2, 3)
    assert pairs(store) == expected(("a cup", 1, 2), ("a box", 3, 1))
    assert pairs(store, "spatial") == []


def test_a_column_names_the_aspect_and_the_option_keeps_some(tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)
    row = {"prompt": "a cup", "chosen": "1.png", "rejected": "2.png"}
    source = jsonl(tmp_path / "own.jsonl", row | {"aspect": "spatial"}, row | {"aspect": "attribute"})
    found, store = taken(source)
    assert pairs(store) == expected(("a cup", 1, 2))
    assert dict(found.left_out) == {"of another aspect": 1}
    (tmp_path / "all").mkdir()
    import_preferences([source], tmp_path / "all" / "set", Options())
    both = open_preferences(str(tmp_path / "all" / "set"))
    assert [len(load_pairs(both, aspect, RULES)[0]) for aspect in ("attribute", "spatial")] == [1, 1]


def test_hpdv3_and_hpdv2_are_lists_of_json_with_images_in_a_folder(tmp_path: Path) -> None:
    images_in(tmp_path / "far", 1, 2, 3)
    three = {
        "prompt": "a cup",
        "path1": "2.png",
        "path2": "1.png",
        "confidence": 0.9,
        "model1": "flux",
        "model2": "sd3",
    }
    (tmp_path / "three.json").write_text(json.dumps([three]))
    training = [
        {"prompt": "a", "image_path": ["1.png", "2.png"], "human_preference": [0, 1]},
        {"prompt": "b", "image_path": ["1.png", "2.png"], "human_preference": [1, 0]},
        {"prompt": "c", "image_path": ["1.png", "2.png"], "human_preference": [1, 1]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(training))
    (tmp_path / "test.json").write_text(
        json.dumps(
            [{"prompt": "a", "image_path": ["1.png", "2.png", "3.png"], "rank": [3, 1, 2], "raw_annotations": []}]
        )
    )
    options = Options(aspects=("attribute",), images=tmp_path / "far")
    _, store = taken(tmp_path / "three.json", options)
    assert pairs(store) == expected(("a cup", 2, 1))
    assert list(load_rankings(store, store.ids("preferences")[0], "preferences")[0][1]) == ["flux", "sd3"]
    found, store = taken(tmp_path / "train.json", options)
    assert pairs(store) == expected(("a", 2, 1), ("b", 1, 2))
    assert dict(found.left_out) == {"a tie": 1}
    _, store = taken(tmp_path / "test.json", options)
    assert pairs(store) == expected(("a", 2, 3), ("a", 2, 1), ("a", 3, 1))


@needs_pyarrow
def test_pick_a_pic_holds_images_as_bytes_and_ties(tmp_path: Path) -> None:
    def row(first: int, second: int, labels: tuple[float, float], **more: Any) -> dict[str, Any]:
        return {
            "caption": f"{first} and {second}", "jpg_0": png(first), "jpg_1": png(second), "label_0": labels[0],
            "label_1": labels[1], "has_label": True, "model_0": "sdxl", "model_1": "sdxl", "user_id": 3, **more,
        }  # fmt: skip

    rows = [row(1, 2, (1.0, 0.0)), row(1, 3, (0.0, 1.0)), row(2, 3, (0.5, 0.5)), row(2, 4, (1.0, 0.0), has_label=False)]
    found, store = taken(parquet_of(tmp_path / "pick.parquet", rows))
    assert pairs(store) == expected(("1 and 2", 1, 2), ("1 and 3", 3, 1))
    assert dict(found.left_out) == {"a tie": 1, "nobody labelled it": 1}
    assert found.images == 3  # image 1 is kept once


@needs_pyarrow
def test_image_reward_db_spreads_a_prompt_over_rows_that_need_not_follow_each_other(tmp_path: Path) -> None:
    images_in(tmp_path / "images", 1, 2, 3, 4)
    rows = [
        {
            "image_path": f"images/{value}.png",
            "prompt_id": id_,
            "prompt": f"prompt {id_}",
            "rank": rank,
            "overall_rating": 5,
        }
        for value, id_, rank in ((1, "p", 2), (4, "q", 1), (2, "p", 1), (3, "p", 2), (1, "q", 2))
    ]
    found, store = taken(parquet_of(tmp_path / "metadata-train.parquet", rows))
    assert sorted(pairs(store)) == sorted(
        expected(("prompt p", 2, 1), ("prompt p", 2, 3), ("prompt q", 4, 1))  # 1 and 3 are tied
    )
    assert (found.rankings, found.images) == (2, 4)


@needs_pyarrow
def test_what_a_run_exports_comes_back_with_images_places_scores_and_seeds(tmp_path: Path) -> None:
    config, store = small_run(tmp_path)
    export_preferences(store, config, tmp_path / "set", max_gib=1.0, licence="mit")
    found = import_preferences([tmp_path / "set"], tmp_path / "back", Options())
    back = open_preferences(str(tmp_path / "back"))

    def told(store: Store, kind: str, ids: list[str]) -> dict[tuple[str, str], Any]:
        tree = {}
        for id_ in ids:
            for prompt, images, rankings in load_rankings(store, id_, kind):
                for aspect, judged in rankings.items():
                    shown = {model: image(store, ref) for model, ref in images.items()}
                    seeds = {
                        model: int(store.get("images", ref.segment, ["seeds"]).arrays["seeds"][ref.row])
                        for model, ref in images.items()
                    }
                    places = [set(place) for place in judged.ranking.places]
                    tree[prompt.text, aspect] = (prompt.id, places, dict(judged.scores), shown, seeds)
        return tree

    before = told(store, "rankings", store.ids("rankings", "r001"))
    assert told(back, "preferences", back.ids("preferences")) == before
    assert found.rankings == len(before)
    assert found.images == len({shown for one in before.values() for shown in one[3].values()})


def test_images_are_scaled_down_keep_their_form_and_share_records_by_size(tmp_path: Path) -> None:
    for value, size in ((1, (64, 32)), (2, (20, 40)), (3, (16, 16)), (4, (32, 64))):
        (tmp_path / f"{value}.png").write_bytes(png(value, *size))
    source = jsonl(
        tmp_path / "own.jsonl",
        {"prompt": "a", "winner": "1.png", "loser": "2.png"},
        {"prompt": "b", "winner": "3.png", "loser": "4.png"},
    )
    _, store = taken(source, Options(aspects=("attribute",), side_px=16))
    sizes = [store.get("images", id_).arrays["images"].shape[1:3] for id_ in store.ids("images")]
    assert sizes == [(16, 32), (32, 16), (16, 16)]
    assert len(load_pairs(store, "attribute", RULES)[0]) == 2


def test_records_that_are_full_are_written_and_every_pair_finds_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference_records, "_SEGMENT_IMAGES", 3)
    monkeypatch.setattr(preference_records, "_RECORD_RANKINGS", 2)
    monkeypatch.setattr(preference_records, "_OPEN_BYTES", 2 * 8 * 8 * 3)
    images_in(tmp_path, *range(11))
    stated = [(f"prompt {i}", i, i + 1) for i in range(10)]
    source = jsonl(
        tmp_path / "own.jsonl",
        *({"prompt": prompt, "winner": f"{one}.png", "loser": f"{two}.png"} for prompt, one, two in stated),
    )
    found, store = taken(source)
    assert pairs(store) == expected(*stated)
    assert (found.images, len(store.ids("preferences"))) == (11, 5)
    assert max(store.get("images", id_).arrays["images"].shape[0] for id_ in store.ids("images")) <= 3


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"prompt": "a", "left": "1.png", "right": "2.png"},
            "its first object has the columns prompt, left, right, which",
        ),
        ({"winner": "1.png", "loser": "2.png"}, "which are of no known form"),
        ({"prompt": " ", "winner": "1.png", "loser": "2.png"}, "line 1 is wrong: its prompt is ' ': a text is needed"),
        ({"prompt": "a", "winner": "1.png", "loser": "gone.png"}, r"line 1: there is no image '.*gone\.png'"),
        ({"prompt": "a", "winner": "1.png", "loser": None}, "line 1 has no image under loser, but None"),
        ({"prompt": "a", "winner": "1.png", "loser": "bad.png"}, r"line 1: its image '.*bad\.png' is no whole PNG"),
        ({"prompt": "a", "winner": "1.png", "loser": "2.png", "aspect": 3}, "line 1 is wrong: its aspect is 3"),
        ({"prompt": "a", "image_path": ["1.png"], "rank": [1]}, r"line 1 is wrong: its rank is \[1\]: a list of two"),
        (
            {"prompt": "a", "image_path": ["1.png", "2.png"], "rank": [0, 1]},
            "its rank is 0: places are whole numbers from 1",
        ),
        (
            {"prompt": "a", "image_path": ["1.png", "2.png"], "rank": [1, float("inf")]},
            "its rank is inf: places are whole numbers from 1",
        ),
        (
            {"prompt": "a", "ranking": "r", "image": "1.png", "aspect": "attribute", "place": 1, "seed": 2**63},
            "its seed is 9223372036854775808: a whole number of 64 bits",
        ),
        (
            {"prompt": "a", "ranking": "r", "image": "1.png", "aspect": "attribute", "place": 1, "score": 10**400},
            "line 1 is wrong: int too large",
        ),
        ({"prompt": "a", "winner": "1.png", "loser": "../2.png"}, r"line 1: its image '\.\./2\.png' lies outside of"),
        ({"prompt": "a", "winner": "1.png", "loser": "/etc/passwd"}, "'/etc/passwd' lies outside of"),
        (
            {"prompt": "a", "image_path": ["1.png"], "rank": [1, 2]},
            "it has 1 images in image_path and 2 values in rank",
        ),
        ({"prompt": "a", "image_path": ["1.png", "2.png"], "human_preference": [2, 1]}, "its human_preference is"),
    ],
)
def test_what_is_wrong_is_named_with_its_row_and_nothing_is_written(row: dict, why: str, tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)
    (tmp_path / "bad.png").write_bytes(png(1)[:40])
    source = jsonl(tmp_path / "own.jsonl", row)
    with pytest.raises(ConfigError, match=why):
        taken(source)
    assert not (tmp_path / "own.jsonl-imported").exists()


def test_a_later_row_of_another_form_is_named(tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)
    right = {"prompt": "a", "image_path": ["1.png", "2.png"], "rank": [1, 2]}
    with pytest.raises(ConfigError, match="line 2 is wrong: it has no rank"):
        taken(jsonl(tmp_path / "own.jsonl", right, {"prompt": "a", "image_path": ["1.png", "2.png"]}))


def test_preferences_without_an_aspect_ask_for_one(tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)
    source = jsonl(tmp_path / "own.jsonl", {"prompt": "a", "winner": "1.png", "loser": "2.png"})
    with pytest.raises(ConfigError, match=r"line 1 \(pairs\) names no aspect: say .* --aspect attribute"):
        taken(source, Options())


def test_what_cannot_be_read_is_left_out_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)
    (tmp_path / "bad.png").write_bytes(b"")
    row = {"prompt": "a", "winner": "1.png", "loser": "2.png"}
    source = jsonl(tmp_path / "own.jsonl", row, row | {"loser": "bad.png"}, row | {"winner": "gone.png"})
    found, store = taken(source, Options(aspects=("attribute",), skips_unreadable=True))
    assert pairs(store) == expected(("a", 1, 2))
    assert dict(found.left_out) == {"without two images that can be read": 2}
    only_bad = jsonl(tmp_path / "bad.jsonl", row | {"loser": "bad.png"})
    with pytest.raises(ConfigError, match="states no preference that can be used: 1 without two images"):
        taken(only_bad, Options(aspects=("attribute",), skips_unreadable=True))
    assert not (tmp_path / "bad.jsonl-imported").exists()


@pytest.mark.parametrize(
    ("limit", "why"), [(1e-7, r"--max-gib is 1e-07, and 2 images need up to 3\.6e-07 GiB"), (1, "")]
)
def test_sizes_are_checked_before_anything_is_written(limit: float, why: str, tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)  # 2 x 192 bytes
    source = jsonl(tmp_path / "own.jsonl", {"prompt": "a", "winner": "1.png", "loser": "2.png"})
    options = Options(aspects=("attribute",), max_gib=limit)
    if not why:
        taken(source, options)
        return
    with pytest.raises(ConfigError, match=why):
        taken(source, options)
    assert not (tmp_path / "own.jsonl-imported").exists()


def test_a_source_that_is_none_and_a_folder_that_is_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.jsonl").write_text("")
    for name, why in (
        ("gone", "is no file"),
        ("a.txt", "must end in one of"),
        ("a.jsonl", "is empty"),
        ("", "holds no"),
    ):
        with pytest.raises(ConfigError, match=why):
            import_preferences([tmp_path / name], tmp_path / "new", ANY)
    with pytest.raises(ConfigError, match="exists: name a new folder"):
        import_preferences([tmp_path / "a.jsonl"], tmp_path, ANY)


def test_the_command_says_what_it_took_in_and_a_run_takes_it_over_once(tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2, 3)
    source = jsonl(
        tmp_path / "own.jsonl",
        {"prompt": "a", "winner": "1.png", "loser": "2.png"},
        {"prompt": "b", "winner": "1.png", "loser": "3.png"},
    )
    words = ["preferences", "import", str(source), "--to", str(tmp_path / "set"), "--aspect", "spatial"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 0, found.output
    assert found.output.endswith("set: 2 rankings of 3 images\n")
    store = open_store("memory://", create=True)
    assert take_in(store, [str(tmp_path / "set")]) == 2
    assert take_in(store, [str(tmp_path / "set")]) == 0
    assert pairs(store, "spatial") == expected(("a", 1, 2), ("b", 1, 3))
    import_preferences([source], tmp_path / "other", ANY)
    with pytest.raises(ConfigError, match=r"reward\.preferences holds other preferences than this run began with"):
        take_in(store, [str(tmp_path / "other")])
    assert take_in(store, [str(tmp_path / "set"), str(tmp_path / "other")]) > 0


def test_every_path_is_allowed_where_that_is_asked_for_and_a_row_left_out_leaves_no_image(tmp_path: Path) -> None:
    images_in(tmp_path / "far", 1, 2, 3)
    (tmp_path / "far" / "bad.png").write_bytes(b"")
    names = [str(tmp_path / "far" / name) for name in ("1.png", "2.png", "3.png", "bad.png")]
    source = jsonl(
        tmp_path / "own.jsonl",
        {"prompt": "a", "winner": names[0], "loser": names[1]},
        {"prompt": "b", "winner": names[2], "loser": names[3]},
    )
    found, store = taken(source, replace(ANY, images=Path("/"), skips_unreadable=True))
    assert found.images == 2
    assert pairs(store) == expected(("a", 1, 2))


def test_a_run_is_refused_whose_preferences_are_not_there_or_of_none_of_its_aspects(tmp_path: Path) -> None:
    images_in(tmp_path, 1, 2)
    source = jsonl(tmp_path / "own.jsonl", {"prompt": "a", "winner": "1.png", "loser": "2.png"})
    import_preferences([source], tmp_path / "set", Options(aspects=("vivid",)))
    for folder, why in (("set", "holds preferences under vivid, and prompts.aspects is"), ("gone", "nothing is")):
        with pytest.raises(ConfigError, match=why):
            check_preferences(load_config("tiny", [f"reward.preferences=[{tmp_path / folder}]"]))
    open_store((tmp_path / "empty").as_uri(), create=True)
    for folder, why in (("empty", "holds no preferences"), ("", "is no store")):
        with pytest.raises(ConfigError, match=why):
            check_preferences(load_config("tiny", [f"reward.preferences=[{tmp_path / folder}]"]))


def test_lineage_names_imported_pairs_and_people_are_not_asked_to_rank_imported_images(tmp_path: Path) -> None:
    config, store = small_run(tmp_path)
    before = trace(store, config, 0)
    tasks = load_tasks(store)
    text = tasks[0].prompt.text
    images_in(tmp_path, 1, 2)
    source = jsonl(tmp_path / "own.jsonl", {"prompt": text, "winner": "1.png", "loser": "2.png"})
    import_preferences([source], tmp_path / "set", ANY)
    take_in(store, [str(tmp_path / "set")])
    assert load_tasks(store) == tasks
    with_them = replace(config, reward=replace(config.reward, preferences=[str(tmp_path / "set")]))
    after = trace(store, with_them, 0)
    num = [sum(len(one.pairs) + len(one.held_out) for one in lineage.rewards) for lineage in (before, after)]
    assert num[1] == num[0] + 1
