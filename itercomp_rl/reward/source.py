"""Whether a reward model can be had from where a config says, told before anything starts: no weights are read."""

import re
from pathlib import Path

from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.tensors import PICKLED, check_whole
from itercomp_rl.network.hub import check_file

HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>.+)")


def check_reward_source(key: str, source: str) -> None:
    """Raises: CheckpointError, naming setting `key`, if `source` is neither a folder of ours nor an official file."""
    path = Path(checkpoint_path(source))
    if path.is_dir():
        _check_folder(key, path)
    elif path.is_file():
        _check_file(key, path)
    elif found := HUB_FILE.fullmatch(source):
        _check_hub(key, source, found["repo"], found["file"])
    else:
        raise CheckpointError(
            f"{key} is {source!r}, which does not exist: give a folder that this project wrote, an official file, or "
            "owner/name:file on the Hugging Face hub"
        )


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
