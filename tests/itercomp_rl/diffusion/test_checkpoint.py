"""The check that a configuration's checkpoint can be a policy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from itercomp_rl.diffusion.checkpoint import GALLERY_ONLY, WEIGHTS_NEEDED, check_checkpoint
from itercomp_rl.errors import CheckpointError


def test_every_family_passes_under_its_pipelines_name(folders: dict[str, Path]) -> None:
    assert {check_checkpoint(folder) for folder in folders.values()} == set(WEIGHTS_NEEDED) - set(GALLERY_ONLY)


def test_the_check_does_not_import_torch() -> None:
    code = "import sys, itercomp_rl.diffusion.checkpoint; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_another_pipeline_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(CheckpointError, match=r"is a KandinskyPipeline checkpoint.*StableDiffusionXLPipeline.*Flux"):
        check_checkpoint(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"unet"'])
def test_an_index_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        check_checkpoint(tmp_path)


def test_a_missing_folder_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder here nor a hub id"):
        check_checkpoint(tmp_path / "gone")


def test_a_component_of_another_class_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderTiny"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="vae of class AutoencoderTiny: AutoencoderKL is needed"):
        check_checkpoint(folder)


def test_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["sd"], tmp_path / "sd")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"no \.safetensors weights"):
        check_checkpoint(folder)


def test_an_incomplete_component_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["flux"], tmp_path / "flux")
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"transformer has no config\.json"):
        check_checkpoint(folder)
