"""Checkpoints of judges, with errors that name them."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # only the error's class: torch raises it for a file that holds code
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig

from itercomp_rl.errors import CheckpointError

T = TypeVar("T")


def from_checkpoint(load: Callable[..., T], checkpoint: str, **settings: Any) -> T:  # Any: whatever `load` takes
    """What `load` makes of a folder or hub id. Raises: CheckpointError that names it."""
    try:
        return load(checkpoint, **settings)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint!r} cannot be loaded: {str(error).splitlines()[0]}. Give the folder of a downloaded "
            "checkpoint, or a hub id that can be reached"
        ) from error


def check_checkpoint(key: str, checkpoint: str) -> None:
    """Raises: CheckpointError, naming setting `key`, if a folder or hub id has no config.json; no weights are read."""
    try:
        from_checkpoint(PretrainedConfig.get_config_dict, checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from error


def read_tensors(what: str, path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors file or of a state dict by torch.save, on the CPU.

    Raises: CheckpointError, beginning with `what`, if the file is damaged or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{what} is refused, as {path} is damaged or holds code and not tensors alone; where you trust it, save "
            f"its state dict as a .safetensors file: {error}"
        ) from error
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{what} cannot be read, {path} may be cut short: fetch or save it anew: {error}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{what} is not a flat dict of tensors ({path}): save model.state_dict() alone")
    return state
