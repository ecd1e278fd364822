"""Whether a reward model can be had from where a config says, told before anything starts: no weights are read."""

from pathlib import Path

from itercomp_rl.config.scorer_names import OWN, ScorerName, parse_scorer
from itercomp_rl.errors import CheckpointError, IterCompError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.tensors import PICKLED, check_readable, check_whole
from itercomp_rl.network.hub import HUB_FILE, check_file


def check_reward_source(key: str, source: str) -> None:
    """Raises: CheckpointError, naming setting `key`, if `source` is no reward model that can be loaded."""
    name = parse_scorer(source)
    if name.kind not in (OWN, "imagereward"):
        _check_clip(key, source, name)
        return
    path = Path(checkpoint_path(name.checkpoint))
    if path.is_dir() and name.kind == OWN:
        _check_folder(key, path)
    elif path.is_file():
        _check_file(key, path)
    elif found := HUB_FILE.fullmatch(name.checkpoint):
        _check_hub(key, source, found["repo"], found["file"])
    else:
        raise CheckpointError(
            f"{key} is {source!r}, which does not exist: give a folder that this project wrote, an official file, "
            "owner/name:file on the Hugging Face hub, or the name of a published one (pickscore, hpsv2, clipscore, "
            "aesthetic, imagereward)"
        )


def _check_clip(key: str, source: str, name: ScorerName) -> None:
    """Its configuration and tokenizer are read, and of its weights what tells whether they are whole."""
    path, is_file_of_hub = Path(name.checkpoint), HUB_FILE.fullmatch(name.checkpoint)
    if name.kind in ("hpsv2", "aesthetic") and not path.is_file() and not is_file_of_hub:
        raise CheckpointError(
            f"{key} is {source!r}, and there is no such file: give one, or {name.kind}:owner/name:file on the hub"
        )
    from itercomp_rl.reward.clip_checkpoint import load_clip_config, load_clip_tokenizer  # here: it needs transformers

    try:
        load_clip_config(name)
        load_clip_tokenizer(name)
    except IterCompError as error:
        raise CheckpointError(f"{key} is {source!r}: {error}") from error
    if path.is_file():
        _check_file(key, path)
    elif path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        for file in files:
            check_whole(file)
        if not files:
            check_readable(path / "pytorch_model.bin")
    elif is_file_of_hub:
        _check_hub(key, source, is_file_of_hub["repo"], is_file_of_hub["file"])


def _check_folder(key: str, folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file() or b'"itercomp-reward-' not in config.read_bytes():
        raise CheckpointError(f"{key} is {folder}, which holds no reward model of this project (config.json)")
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{key} is {folder}, which holds no weights (*.safetensors)")
    for file in files:
        check_whole(file)


def _check_file(key: str, path: Path) -> None:
    if path.suffix == ".safetensors":
        check_whole(path)
    elif path.suffix not in PICKLED:
        raise CheckpointError(f"{key} is {path}: must end in {', '.join(PICKLED)} or .safetensors")


def _check_hub(key: str, source: str, repo: str, file: str) -> None:
    try:
        check_file(repo, file)
    except CheckpointError as error:
        raise CheckpointError(f"{key} is {source!r}, which the hub does not give: {error}") from error
