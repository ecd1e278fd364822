"""Data sets in place of prompt files, read from folders as `datasets` reads them from the hub."""

import gc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.prompt_sets.hub_dataset import read_dataset_rows
from itercomp_rl.prompts import file_prompts

needs_datasets = pytest.mark.skipif(find_spec("datasets") is None, reason="itercomp-rl[data] is not installed")
# Those of `datasets`, which leaves files open that it has read in part.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text('prompt,other\n"a cat, asleep",x\na 🐈,y\na 🐈,z\n', encoding="utf-8")
    (tmp_path / "set" / "test.csv").write_text("prompt,other\na dog,a horse\n")
    yield tmp_path / "set"
    gc.collect()  # while the warnings above are still ignored


@needs_datasets
def test_a_data_set_gives_its_prompts_split_by_split_and_column_by_column(folder: Path) -> None:
    assert [row.text for row in read_dataset_rows(f"hf:{folder}")] == ["a cat, asleep", "a 🐈", "a 🐈"]
    assert [row.text for row in read_dataset_rows(f"hf:{folder}:test")] == ["a dog"]
    assert [row.text for row in read_dataset_rows(f"hf:{folder}:test:other")] == ["a horse"]
    assert [prompt.text for prompt in file_prompts(f"hf:{folder}", ["spatial"])] == ["a cat, asleep", "a 🐈"]


@needs_datasets
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (":validation", "cannot be read"),
        (":train:caption", "has the columns prompt, other: name the one of the prompts"),
        ("/nowhere", "cannot be read"),
    ],
)
def test_what_a_data_set_has_not_is_refused_with_its_name(
    folder: Path, end: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=reason) as refusal:
        read_dataset_rows(f"hf:{folder}{end}")
    assert str(folder) in str(refusal.value)


@pytest.mark.skipif(find_spec("datasets") is not None, reason="datasets is installed")
def test_without_the_package_the_way_out_is_told() -> None:
    with pytest.raises(ConfigError, match=r"'hf:owner/name' needs datasets: pip install 'itercomp-rl\[data\]'"):
        read_dataset_rows("hf:owner/name")


def test_a_name_that_is_none_is_refused_with_the_form() -> None:
    with pytest.raises(ConfigError, match="write hf:owner/name"):
        read_dataset_rows("hf:a:b:c:d")
