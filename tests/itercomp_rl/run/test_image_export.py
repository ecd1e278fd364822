"""Images with captions, for other software."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.run.image_export import export_images
from itercomp_rl.store.store import Store
from tests.parts.small_run import small_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_run(tmp_path_factory.mktemp("runs"))[1]


def every_image(store: Store) -> dict[str, tuple[np.ndarray, str, int]]:
    """Key: pixels, caption, seed."""
    found = {}
    for id_ in store.ids("images"):
        record = store.get("images", id_)
        for row, prompt in enumerate(record.attrs["prompts"]):
            seed = int(record.arrays["seeds"][row])
            found[f"{id_}-{row:05d}"] = (record.arrays["images"][row], prompt["text"], seed)
    return found


def test_png_files_and_their_lines_hold_every_image_bit_for_bit(store: Store, tmp_path: Path) -> None:
    count = export_images(store, "images", tmp_path / "out", "png")
    expected = every_image(store)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert count == len(lines) == len(expected) == len(list((tmp_path / "out").glob("*.png")))
    for line in lines:
        pixels, text, seed = expected[line["file_name"].removesuffix(".png")]
        assert (line["text"], line["seed"]) == (text, seed)
        with Image.open(tmp_path / "out" / line["file_name"]) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)


def test_tars_group_image_caption_and_facts_by_key(store: Store, tmp_path: Path) -> None:
    count = export_images(store, "images", tmp_path / "out", "tar")
    expected = every_image(store)
    members: dict[str, dict[str, bytes]] = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                members.setdefault(key, {})[suffix] = file.read()
    assert count == len(members) == len(expected)
    for key, parts in members.items():
        pixels, text, seed = expected[key]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(parts["png"]))), pixels)
        assert parts["txt"].decode() == text
        assert json.loads(parts["json"])["seed"] == seed


def test_nothing_is_written_over_and_nothing_is_half_there(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="name a new folder"):
        export_images(store, "images", tmp_path / "out", "png")
    with pytest.raises(ConfigError, match="holds no evaluations"):
        export_images(store, "evaluations", tmp_path / "other", "png")
    assert not (tmp_path / "other").exists()
