"""Checkpoints of judges, with errors that name them."""

from collections.abc import Callable
from typing import Any, TypeVar

from transformers import PretrainedConfig

from itercomp_rl.errors import CheckpointError
from itercomp_rl.network.hub import check_reach

T = TypeVar("T")


def from_checkpoint(load: Callable[..., T], checkpoint: str, **settings: Any) -> T:  # Any: whatever `load` takes
    """What `load` makes of a folder or hub id. Raises: CheckpointError that names it."""
    check_reach(checkpoint)
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
