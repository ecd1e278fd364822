"""Folders of images: which image is of which prompt, and every mistake named with its file and row."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError, GalleryError
from itercomp_rl.evaluation.t2i_compbench.files import image_name
from itercomp_rl.gallery.external.folder_system import FolderSystem
from itercomp_rl.gallery.external.image_folder import load_image, open_folder
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.items import ModelRef
from itercomp_rl.prompts import prompt_id
from itercomp_rl.run.image_export import export_images
from itercomp_rl.store.store import open_store


def picture(path: Path, value: int, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, 0, 0)).save(path)
    return path


def ref(folder: Path, size_px: int | None = None) -> ModelRef:
    return ModelRef(name="closed", checkpoint=str(folder), num_steps=0, system="folder", size_px=size_px)


def names(folder: Path, text: str) -> list[str]:
    return [image.file.name for image in open_folder(str(folder)).images_of(text)]


def write_manifest(folder: Path, rows: list[dict[str, object]], name: str = "manifest.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_file_is_named_for_its_prompt_or_its_id_and_numbers_are_in_order(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        picture(tmp_path / f"a red cup_{number}.png", number)
    picture(tmp_path / f"{prompt_id('a blue box')}.webp", 1)
    picture(tmp_path / "two cats" / "any.jpg", 2)
    (tmp_path / "notes.txt").write_text("no image")
    assert names(tmp_path, "a red cup") == ["a red cup_0.png", "a red cup_2.png", "a red cup_10.png"]
    assert names(tmp_path, "A red  cup") == names(tmp_path, "a red cup")
    assert names(tmp_path, "a blue box") == [f"{prompt_id('a blue box')}.webp"]
    assert names(tmp_path, "two cats") == ["any.jpg"]
    assert names(tmp_path, "a red") == []


@pytest.mark.parametrize("text", ["a cup / a plate", "route_66 at 7:00", "what? 50% off", "ein Gefäß"])
def test_the_names_that_the_benchmark_writes_are_read(text: str, tmp_path: Path) -> None:
    picture(tmp_path / image_name(text, 3), 1)
    assert len(names(tmp_path, text)) == 1


def test_a_manifest_names_files_and_prompts_in_its_own_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "sub/c.png"):
        picture(tmp_path / name, 1)
    rows = [{"file_name": name, "text": "a red cup", "seed": 4} for name in ("b.png", "a.png", "sub/c.png")]
    write_manifest(tmp_path, rows)
    assert names(tmp_path, "a red cup") == ["b.png", "a.png", "c.png"]
    assert names(tmp_path / "manifest.jsonl", "a red cup") == ["b.png", "a.png", "c.png"]
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "manifest.csv").write_text('\ufeffFile,Prompt\r\na.png,"a cup, red"\r\n', encoding="utf-8")
    assert names(tmp_path, "a cup, red") == ["a.png"]


def test_what_a_run_exports_is_such_a_folder(tmp_path: Path) -> None:
    store = open_store("memory://", create=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    prompts = [{"id": prompt_id(text), "text": text, "aspects": []} for text in ("a cup", "a box")]
    attrs = {"round": 0, "model": "sdxl", "checkpoint": "x", "policy_version": None, "num_steps": 3, "prompts": prompts}
    store.put("images", "sdxl-00000", {"images": images, "seeds": np.arange(2)}, attrs)
    export_images(store, "images", tmp_path / "out", "png")
    drawn = FolderSystem().draw(ref(tmp_path / "out"), ["a box", "a cup"], [0, 0])
    np.testing.assert_array_equal(drawn.images, images[::-1])


def test_a_row_is_the_prompts_image_of_its_number_and_missing_beyond(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / f"a cup_{number}.png", 10 + number)
    prompts, seeds = ["a cup", "a box", "a cup", "a cup"], [1, 0, 0, 2]
    drawn = FolderSystem().draw(ref(tmp_path), prompts, seeds)
    assert drawn.images[:, 0, 0, 0].tolist() == [11, 0, 10, 0]
    assert drawn.missing == {1: "no image of the prompt", 3: "the folder holds 2 images of the prompt"}
    assert [note.get("file") for note in drawn.notes] == ["a cup_1.png", None, "a cup_0.png", None]


def test_images_of_another_side_are_resized_where_the_member_says_so_and_else_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 9)
    picture(tmp_path / "b.png", 9, side=16)
    assert FolderSystem().draw(ref(tmp_path, size_px=12), ["a", "b"], [0, 0]).images.shape == (2, 12, 12, 3)
    with pytest.raises(GalleryError, match=r"b\.png' has 16 pixels a side and others 8: set the member's size_px"):
        FolderSystem().draw(ref(tmp_path), ["a", "b"], [0, 0])


def test_an_image_of_no_prompt_does_not_decide_the_side(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 9, side=16)
    picture(tmp_path / "b.png", 9)
    assert FolderSystem().draw(ref(tmp_path), ["b"], [0]).images.shape == (1, 8, 8, 3)
    assert FolderSystem().draw(ref(tmp_path), ["c"], [0]).images.shape == (1, 1, 1, 3)


def test_a_batch_without_any_image_joins_the_others(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", 9)
    settings = load_config("tiny", ["gallery.batch=1"]).gallery
    gallery = Gallery(open_store("memory://", create=True), settings, torch.device("cpu"))
    drawn = gallery.draw(ref(tmp_path), ["c", "b"], [0, 0])
    assert drawn.images[:, 0, 0, 0].tolist() == [0, 9]
    assert list(drawn.missing) == [0]


def test_hidden_files_and_a_macs_own_are_no_images(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "__MACOSX/a.png", ".cache/a.png"):
        picture(tmp_path / name, 1)
    folder = open_folder(str(tmp_path))
    assert [image.file for image in folder.others_than([])] == [tmp_path / "a.png"]


def test_a_file_that_two_rows_name_is_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    write_manifest(tmp_path, [{"file_name": name, "text": "a"} for name in ("a.png", "./a.png", "a.png")])
    assert names(tmp_path, "a") == ["a.png"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            '{"file_name": "a.png", "text": "a"}\n{"file_name": "gone.png", "text": "b"}',
            r"line 2: there is no file .*gone",
        ),
        (
            '{"file_name": "a.png", "title": "a"}',
            "line 1 names its prompt under none of text, prompt, caption: it has ",
        ),
        ('{"text": "a"}', "line 1 names the file of an image under none of file_name, file, image: it has text"),
        ('{"file_name": "a.png", "text": " "}', "line 1 names its prompt under none"),
        ('{"file_name": "a.png", "text": 3}', "line 1 names its prompt under none"),
        ("\n[1]", "line 2 is no object"),
        ("{", "line 1 is not JSON"),
    ],
)
def test_a_wrong_row_of_a_manifest_is_named(content: str, why: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=why):
        open_folder(str(tmp_path))


def test_a_row_of_a_csv_with_too_few_or_too_many_cells_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    for cells in ("a.png", "a.png,a cup, red"):
        (tmp_path / "manifest.csv").write_text(f"file,text\n{cells}\n")
        with pytest.raises(ConfigError, match="line 2 has not as many cells as the heading"):
            open_folder(str(tmp_path))


def test_a_folder_that_is_none_is_empty_or_has_two_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder of images, and no manifest"):
        open_folder(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="holds no image"):
        open_folder(str(tmp_path))
    picture(tmp_path / "a.png", 1)
    for name in ("manifest.jsonl", "metadata.jsonl"):
        write_manifest(tmp_path, [{"file_name": "a.png", "text": "a"}], name)
    with pytest.raises(ConfigError, match=r"holds manifest\.jsonl and metadata\.jsonl: keep one"):
        open_folder(str(tmp_path))


def test_an_image_that_cannot_be_read_is_named_with_the_row_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    write_manifest(tmp_path, [{"file_name": "a.png", "text": "a"}])
    [image] = open_folder(str(tmp_path)).images_of("a")
    with pytest.raises(ConfigError, match=r"a\.png' \(manifest\.jsonl, line 1\) is no whole PNG, JPEG or WebP file"):
        load_image(image, None)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"a\.png' \(manifest\.jsonl, line 1\) cannot be read: No such file"):
        load_image(image, None)
