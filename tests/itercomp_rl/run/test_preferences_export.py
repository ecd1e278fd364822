"""A run's rankings as a data set: every image of a ranking with its place, readable by pyarrow and by datasets."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cluster.main import main
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.ranking.people import Said, publish
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.run.preferences_export import export_preferences
from itercomp_rl.store.store import Store
from tests.parts.small_run import small_run

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="itercomp-rl[data] is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Store]:
    return small_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def written(run: tuple[Config, Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow", reason="itercomp-rl[data] is not installed")
    folder = tmp_path_factory.mktemp("out")
    found = CliRunner().invoke(main, ["preferences", "export", str(run[0].run_folder), "--to", str(folder / "set")])
    assert found.exit_code == 0, found.output
    return folder / "set"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return [row for file in sorted((folder / "data").glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]


def test_every_ranked_image_of_the_last_round_is_a_row_bit_for_bit(run: tuple[Config, Store], written: Path) -> None:
    config, store = run
    rows = rows_of(written)
    expected = {}
    for id_ in store.ids("rankings", "r001"):
        for prompt, images, rankings in load_rankings(store, id_):
            for aspect, judged in rankings.items():
                for place, models in enumerate(judged.ranking.places, 1):
                    for model in models:
                        record = store.get("images", images[model].segment)
                        row = images[model].row
                        expected[prompt.text, aspect, model] = (
                            *(place, judged.scores[model], int(record.arrays["seeds"][row])),
                            record.arrays["images"][row].tobytes(),
                        )
    found = {
        (row["prompt"], row["aspect"], row["model"]): (
            *(row["place"], row["score"], row["seed"]),
            np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).tobytes(),
        )
        for row in rows
    }
    assert found == expected
    assert len(rows) == len(expected)
    assert {(row["judge"], row["round"]) for row in rows} == {(config.judge.later_rounds, 2)}
    assert "data_files: data/*.parquet" in (written / "README.md").read_text()


def test_rows_of_one_ranking_share_its_id_and_are_about_one_prompt_and_aspect(written: Path) -> None:
    about: dict[str, set[tuple[str, str]]] = {}
    for row in rows_of(written):
        about.setdefault(row["ranking"], set()).add((row["prompt"], row["aspect"]))
    assert all(len(found) == 1 for found in about.values())
    assert len({next(iter(found)) for found in about.values()}) == len(about)


def test_datasets_loads_it_with_its_images(written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="itercomp-rl[data] is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = datasets.load_dataset(str(written), split="train", streaming=True)
    first = next(iter(found))
    assert (first["image"].size, first["place"]) == ((8, 8), 1)


@needs_pyarrow
def test_what_people_said_stands_beside_it_without_their_names(run: tuple[Config, Store], tmp_path: Path) -> None:
    config, store = run
    (prompt, images, _), *_ = load_rankings(store, store.ids("rankings", "r000")[0])
    one, two, *_ = images
    publish(
        store,
        Said(
            prompt=prompt, aspect=prompt.aspects[0], rater="ann", time_s=1.0, act="ranked",
            places=((two,), (one,)), images=images,
        ),
    )  # fmt: skip
    export_preferences(store, config, tmp_path / "set", round_=1, max_gib=1.0, licence="mit")
    said = [row for row in rows_of(tmp_path / "set") if row["judge"].startswith("person")]
    assert [(row["model"], row["place"], row["score"], row["round"]) for row in said] == [
        (two, 1, None, None),
        (one, 2, None, None),
    ]
    assert "ann" not in {row["judge"] for row in said}


@needs_pyarrow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_gib": 1e-6}, r"--max-gib is 1e-06, and \d+ images of these rankings need about .*raise it"),
        ({"max_gib": 1.0, "round_": 9}, "holds no rankings of round 9"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    run: tuple[Config, Store], settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        export_preferences(run[1], run[0], tmp_path / "set", licence="mit", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_without_pyarrow_the_way_out_is_told(run: tuple[Config, Store], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'itercomp-rl\[data\]'"):
        export_preferences(run[1], run[0], tmp_path / "set", max_gib=1.0, licence="mit")
