"""Rankings as files: what is written, and that a run's judge reads it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ImageRef
from itercomp_rl.judges.rank_files import load_ranks
from itercomp_rl.prompts import file_prompts
from itercomp_rl.ranking.page.export import export, judge_said, people_said
from itercomp_rl.ranking.page.session import Session, load_tasks
from itercomp_rl.ranking.people import Said
from itercomp_rl.store.store import Store
from tests.parts.rank_store import MODELS, make_rank_store


def say(session: Session, rater: str, id_: str, places: list[list[str]]) -> None:
    slots = session.slots(rater, session.task(id_))
    session.rank(rater, id_, [[slots.index(model) for model in place] for place in places])


@pytest.fixture
def store() -> Store:
    store, _ = make_rank_store()
    tasks = [task for task in load_tasks(store) if task.aspect == "attribute"]
    session = Session(store, tasks)
    say(session, "ann", tasks[0].id, [["two"], ["one"], ["three"]])
    say(session, "ann", tasks[1].id, [["two"], ["one", "three"]])
    return store


def test_the_official_file_holds_the_strict_orders_and_the_csv_all(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    assert export(store, people_said(store), folder) == {"attribute": (1, 2)}
    (item,) = json.loads((folder / "attribute.json").read_text())
    assert [name for name in item if name.startswith("image_")] == [f"image_{model}" for model in MODELS]
    assert item["rank"] == [3, 1, 2]  # two, one, three, counting from 1 in the order of the image_ fields
    assert len((folder / "all.csv").read_text().splitlines()) == 1 + 6
    assert len((folder / "prompts.txt").read_text().splitlines()) == 2
    with Image.open(folder / item["image_two"]) as image:
        assert image.size[0] > 8


@pytest.mark.parametrize("name", ["", "all.csv"])
def test_a_run_reads_what_was_exported(name: str, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    export(store, people_said(store), folder)
    ranks = load_ranks(folder / name, ["attribute"], MODELS)
    task = next(task for task in load_tasks(store) if (task.prompt.text, "attribute") in ranks)
    assert ranks[task.prompt.text, "attribute"] in [(("two",), ("one",), ("three",)), (("two",), ("one", "three"))]
    assert len(ranks) == (1 if name == "" else 2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a poster that says HELLO\u2028WORLD", "prompts.txt"),
        ("a poster that says HELLO\nWORLD", "prompts.json"),
        ("[a cat] on a mat", "prompts.json"),
    ],
)
def test_the_prompts_of_an_export_are_the_ranked_ones_to_the_character(text: str, name: str, tmp_path: Path) -> None:
    store, (prompt, *_) = make_rank_store()
    said = Said(
        prompt=replace(prompt, text=text),
        aspect="attribute",
        rater="ann",
        time_s=0.0,
        act="ranked",
        places=tuple((model,) for model in MODELS),
        images={model: ImageRef(segment=f"{model}-00000", row=0) for model in MODELS},
    )
    export(store, [said], tmp_path / "ranks")
    assert [found.text for found in file_prompts(tmp_path / "ranks" / name, ["attribute"])] == [text]
    assert (text, "attribute") in load_ranks(tmp_path / "ranks" / "all.csv", ["attribute"], MODELS)


def test_nothing_to_export_and_a_folder_that_exists_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a new folder"):
        export(store, people_said(store), tmp_path)
    with pytest.raises(ConfigError, match="nobody has ranked"):
        people_said(make_rank_store()[0])
    with pytest.raises(ConfigError, match="no rankings of round 0"):
        judge_said(store)
