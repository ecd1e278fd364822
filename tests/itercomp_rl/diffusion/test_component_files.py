"""The files that loading a checkpoint will open: the check before a run, the loaders and the memory estimate agree."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from itercomp_rl.diffusion.checkpoint import check_checkpoint, check_drawing, drawing_checkpoint, policy_checkpoint
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.tensors import num_numbers
from itercomp_rl.gallery.any_pipeline import AnyPipeline
from tests.parts.checkpoints import make_pixart

CPU = torch.device("cpu")


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of a family's checkpoint that a test may change."""
    return lambda family: Path(shutil.copytree(folders[family], tmp_path / family))


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pixart(tmp_path_factory.mktemp("pixart") / "pixart")


def as_variant(folder: Path, variant: str = "fp16", *, dtype: torch.dtype = torch.float16) -> None:
    """Leave the variant's weights alone, as most SDXL checkpoints are kept."""
    for file in list(folder.rglob("*.safetensors")):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        save_file(tensors, file.with_name(f"{file.stem}.{variant}.safetensors"), metadata={"format": "pt"})
        file.unlink()


def sharded(file: Path, *, variant: str = "") -> list[Path]:
    """Cut a file of weights in two, with an index of the shards."""
    tensors = load_file(file)
    names, stem, mark = sorted(tensors), file.stem, f".{variant}" if variant else ""
    paths = [file.with_name(f"{stem}{mark}-0000{i}-of-00002.safetensors") for i in (1, 2)]
    keys = dict(zip(paths, (names[::2], names[1::2]), strict=True))
    for path, some in keys.items():
        save_file({name: tensors[name] for name in some}, path, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: path.name for path, some in keys.items() for name in some}}
    file.with_name(f"{stem}.safetensors.index{mark}.json").write_text(json.dumps(index))
    file.unlink()
    return paths


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_variant_that_is_the_only_weights_is_loaded_and_named(
    folders: dict[str, Path], family: str, copy: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy(family)
    as_variant(folder, dtype=torch.float32)
    assert policy_checkpoint(folder).variant == "fp16"
    with caplog.at_level(logging.INFO):
        policy = load_policy(folder, resolution_px=16)
    assert f"loading the fp16 variant of {folder}" in caplog.text
    assert same_weights(load_policy(folders[family], resolution_px=16).trainable, policy.trainable)


def test_a_pipeline_of_another_class_loads_its_only_variant_and_counts_as_its_plain_weights(
    pixart: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pixart, tmp_path / "fp16"))
    as_variant(folder)
    assert drawing_checkpoint(folder).variant == "fp16"
    AnyPipeline(str(folder), dtype="fp32", device=CPU)
    plain = sum(map(num_numbers, drawing_checkpoint(pixart).tensors()))
    assert plain == sum(map(num_numbers, drawing_checkpoint(folder).tensors())) > 0
    both = Path(shutil.copytree(pixart, tmp_path / "both"))
    shutil.copytree(folder, both, dirs_exist_ok=True)
    assert drawing_checkpoint(both).variant is None
    assert plain == sum(map(num_numbers, drawing_checkpoint(both).tensors()))


def test_plain_weights_are_preferred_and_what_is_beside_them_does_not_matter(copy: Callable[[str], Path]) -> None:
    folder = copy("sdxl")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.fp16.safetensors", "LICENSE"):
        weights.with_name(name).write_bytes(b"")
    (folder / "safety_checker").mkdir()
    index = json.loads((folder / "model_index.json").read_text())
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]  # a policy looks at no images
    index["adviser"] = ["diffusers", "UNet2DConditionModel"]  # nothing that the pipeline takes
    (folder / "model_index.json").write_text(json.dumps(index))
    checkpoint = policy_checkpoint(folder)
    assert checkpoint.variant is None
    assert weights in checkpoint.tensors()
    load_policy(folder)


def test_components_with_plain_weights_alone_go_with_a_variant_of_the_others(copy: Callable[[str], Path]) -> None:
    folder = copy("sdxl")
    plain = shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "plain")
    as_variant(folder)
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    shutil.move(plain, folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert policy_checkpoint(folder).variant == "fp16"
    load_policy(folder)


def test_of_several_variants_none_is_guessed(copy: Callable[[str], Path]) -> None:
    folder = copy("sd")
    shutil.copytree(folder, folder.with_name("other"))
    as_variant(folder, "ema")
    as_variant(folder.with_name("other"), "fp16")
    shutil.copytree(folder.with_name("other"), folder, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"several variants of them \(ema, fp16\): keep the files of one"):
        check_checkpoint(folder)


@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_shards_are_loaded_and_every_one_of_them_is_needed(
    folders: dict[str, Path], copy: Callable[[str], Path], name: str, variant: str
) -> None:
    folder = copy("sdxl")
    file = folder / f"{name}.safetensors"
    first, second = sharded(file, variant=variant)
    loaded = load_policy(folder)
    assert same_weights(load_policy(folders["sdxl"]).trainable, loaded.trainable)
    assert {first, second} < set(policy_checkpoint(folder).tensors())
    second.write_bytes(second.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=rf"{second.name} has \d+ bytes and its header says"):
        check_checkpoint(folder)
    second.unlink()
    with pytest.raises(CheckpointError, match=f"{second.name} does not exist: fetch it"):
        check_checkpoint(folder)


def _rewritten(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))

    return act


def _linked_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/blob")


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "scheduler gone": ("scheduler/scheduler_config.json", Path.unlink, r"scheduler has no scheduler_config\.json"),
    "scheduler cut": ("scheduler/scheduler_config.json", lambda p: p.write_text("{"), "is not valid JSON"),
    "scheduler a list": ("scheduler/scheduler_config.json", lambda p: p.write_text("[]"), "holds a list"),
    "no scheduler folder": ("scheduler", shutil.rmtree, r"scheduler has no scheduler_config\.json"),
    "no tokenizer folder": ("tokenizer_2", shutil.rmtree, r"tokenizer_2 has no tokenizer_config\.json and tokenizer"),
    "no vocabulary": ("tokenizer/tokenizer.json", Path.unlink, r"tokenizer has no tokenizer\.json"),
    "vocabulary cut": ("tokenizer/tokenizer.json", lambda p: p.write_text('{"model"'), "is not valid JSON"),
    "tokenizer's config cut": ("tokenizer/tokenizer_config.json", lambda p: p.write_bytes(b"\xff"), "not valid JSON"),
    "tokens cut": ("tokenizer/added_tokens.json", lambda p: p.write_text("{"), "is not valid JSON"),
    "no config": ("text_encoder_2/config.json", Path.unlink, r"text_encoder_2 has no config\.json"),
    "config cut": ("unet/config.json", lambda p: p.write_text(""), "is not valid JSON"),
    "no component folder": ("vae", shutil.rmtree, r"vae has no config\.json"),
    "no weights": ("vae/diffusion_pytorch_model.safetensors", Path.unlink, r"vae has no \.safetensors weights"),
    "weights linked nowhere": ("unet/diffusion_pytorch_model.safetensors", _linked_nowhere, "is a link to /nowhere"),
    "config linked nowhere": ("vae/config.json", _linked_nowhere, "is a link to /nowhere/blob, which does not exist"),
    "index linked nowhere": ("model_index.json", _linked_nowhere, "is a link to /nowhere/blob, which does not exist"),
    "weights a folder": ("unet/diffusion_pytorch_model.safetensors", _as_folder, "cannot be read"),
    "no scheduler entry": (
        "model_index.json",
        _rewritten(lambda t: t.pop("scheduler")),
        "has no scheduler in its model",
    ),
    "no encoder entry": ("model_index.json", _rewritten(lambda t: t.pop("text_encoder_2")), "has no text_encoder_2 in"),
    "half a pair": ("model_index.json", _rewritten(lambda t: t.update(tokenizer=[None, None])), "has no tokenizer in"),
    "odd entry": ("model_index.json", _rewritten(lambda t: t.update(unet="unet")), "has a unet of class None"),
    "own class": ("model_index.json", _rewritten(lambda t: t.update(_class_name=["a", "B"])), "a policy must be one"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_loading_would_miss_is_named_before_the_run_and_by_the_loader(
    copy: Callable[[str], Path], damage: str
) -> None:
    folder = copy("sdxl")
    name, change, reason = DAMAGES[damage]
    change(folder / name)
    for act in (check_checkpoint, load_policy):
        with pytest.raises(CheckpointError, match=reason):
            act(folder)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("unet/config.json", lambda t: t.update(in_channels="four"), "cannot be loaded"),
        ("unet/config.json", lambda t: t.update(block_out_channels=[16, 48]), "cannot be loaded"),
        ("text_encoder/config.json", lambda t: t.update(hidden_size="wide"), "cannot be loaded"),
        ("model_index.json", lambda t: t.update(tokenizer=["transformers", "NoTokenizer"]), "cannot be loaded"),
        ("model_index.json", lambda t: t.update(text_encoder=["nolibrary", "Model"]), "cannot be loaded"),
        ("tokenizer/tokenizer.json", dict.clear, r"cannot be loaded \(KeyError: 'added_tokens'\)"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused_with_what_the_library_said(
    copy: Callable[[str], Path], name: str, change: Callable[[dict], object], reason: str
) -> None:
    folder = copy("sdxl")
    _rewritten(change)(folder / name)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_policy(folder)
    assert caught.value.__cause__ is not None


def test_the_classes_tokenizers_need_vocabularies_of_their_own_kind(copy: Callable[[str], Path]) -> None:
    folder = copy("sdxl")
    _rewritten(lambda tree: tree.update(tokenizer=["transformers", "CLIPTokenizer"]))(folder / "model_index.json")
    check_checkpoint(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    # transformers would make a tokenizer of two words of it, and every prompt would read the same
    with pytest.raises(CheckpointError, match=r"tokenizer has no tokenizer\.json or merges\.txt"):
        check_checkpoint(folder)
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    check_checkpoint(folder)


def test_a_tokenizer_of_an_unknown_class_may_have_files_of_other_names(pixart: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pixart, tmp_path / "pixart"))
    _rewritten(lambda tree: tree.update(tokenizer=["transformers", "ByT5Tokenizer"]))(folder / "model_index.json")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    check_drawing(folder)
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer has no tokenizer_config\.json: its ByT5Tokenizer cannot"):
        check_drawing(folder)


def test_sd3_without_its_t5_encoder_is_whole(copy: Callable[[str], Path]) -> None:
    folder = copy("sd3")
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    _rewritten(lambda tree: tree.update(absent))(folder / "model_index.json")
    for name in absent:
        shutil.rmtree(folder / name)
    check_checkpoint(folder)
    assert load_policy(folder, resolution_px=16).encode(["a cat"]).tokens.isfinite().all()


def test_a_single_file_is_refused_with_the_way_to_a_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "someXL_v9.safetensors"
    shutil.copy(folders["sdxl"] / "unet" / "diffusion_pytorch_model.safetensors", file)
    for check in (check_checkpoint, check_drawing):
        with pytest.raises(CheckpointError, match=r"is a single \.safetensors file.*from_single_file.*save_pretrained"):
            check(file)
    with pytest.raises(CheckpointError, match="give the folder that it is in"):
        check_checkpoint(folders["sdxl"] / "model_index.json")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="gone, which does not exist: mend the link"):
        check_checkpoint(tmp_path / "link")


def test_a_file_without_a_dot_that_diffusers_trips_over_beside_a_variant_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("sd")
    as_variant(folder)
    (folder / "unet" / "LICENSE").write_text("")
    with pytest.raises(CheckpointError, match=r"move unet/LICENSE out of the checkpoint"):
        check_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", Path.unlink, r"no \.safetensors weights"),
        ("tokenizer/tokenizer.json", Path.unlink, r"tokenizer has no tokenizer\.json"),
        ("scheduler", shutil.rmtree, r"no scheduler_config\.json"),
        ("model_index.json", _rewritten(lambda tree: tree.pop("vae")), "has no vae in its model_index"),
        (
            "model_index.json",
            _rewritten(lambda tree: tree.update(_class_name="NoSuchPipeline")),
            "has no such pipeline",
        ),
    ],
)
def test_a_pipeline_of_another_class_is_checked_like_a_policy(
    pixart: Path, tmp_path: Path, name: str, change: Callable[[Path], object], reason: str
) -> None:
    folder = Path(shutil.copytree(pixart, tmp_path / "pixart"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"adviser": ["diffusers", "UNet2DConditionModel"]}))
    check_drawing(folder)  # what the class does not take is not looked for
    change(folder / name)
    with pytest.raises(CheckpointError, match=reason):
        check_drawing(folder)
    with pytest.raises(CheckpointError, match=reason):
        AnyPipeline(str(folder), dtype="fp32", device=CPU)


def test_a_checkpoint_in_the_hubs_cache_loads_its_only_variant_where_the_hub_is_away(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0" * 40
    cached = tmp_path / "models--me--sdxl"
    snapshot = Path(shutil.copytree(folders["sdxl"], cached / "snapshots" / revision))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    as_variant(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert policy_checkpoint("me/sdxl").variant == "fp16"
    assert load_policy("me/sdxl").family.trainable_name == "unet"
    (snapshot / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"me/sdxl/vae has no \.safetensors weights"):
        check_checkpoint("me/sdxl")
