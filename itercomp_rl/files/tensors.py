"""Files of tensors: whether one is whole, told without reading weights; what one holds, read without running code.

Torch is imported only to read, as settings are checked without it.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # only the error's class: torch raises it for a file that holds code
from typing import TYPE_CHECKING, Any

from itercomp_rl.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".pt", ".pth", ".bin")  # state dicts by torch.save
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def check_readable(path: Path) -> None:
    """Raises: CheckpointError if the path is no file, a link to a file that is gone, or may not be read."""
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        if not path.is_symlink():
            raise CheckpointError(f"{path} does not exist: fetch it, or save the checkpoint again") from error
        raise CheckpointError(
            f"{path} is a link to {path.readlink()}, which does not exist: fetch the file again, or copy the "
            "checkpoint together with the files that its links point to"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch it, or save the checkpoint again") from error


def check_whole(path: Path) -> None:
    """Raises: CheckpointError if the file is no safetensors file, or ends before or after its last tensor does."""
    _header(path)


def num_numbers(path: Path) -> int:
    """How many numbers the tensors of a safetensors file hold. Raises: CheckpointError as `check_whole`."""
    return sum(math.prod(entry["shape"]) for entry in _header(path).values())


def _header(path: Path) -> "dict[str, Any]":
    check_readable(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(f"{path} is damaged or no safetensors file: fetch or save it anew")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            ends = [entry["data_offsets"][1] for entry in tensors.values() if isinstance(entry["shape"], list)]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has a damaged header: fetch or save it anew") from error
    if expected != size:
        raise CheckpointError(f"{path} has {size} bytes and its header says {expected}: fetch or save it anew")
    return tensors


def read_tensors(
    path: Path, what: str = "", *, entries: Sequence[str] = (), classes: Sequence[Any] = ()
) -> "dict[str, Tensor]":
    """Tensors by name, on the CPU, of a .safetensors file or of a state dict by torch.save.

    Args: what: it is, for messages; entries: under which a whole training checkpoint may keep its state dict, the
    preferred first; classes: other than tensors that its file may name (torch.serialization.safe_globals).
    Raises: CheckpointError, which names the file, if it is not there, damaged, or holds code or anything but tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    named = f"{what} ({path})" if what else str(path)
    if not path.is_file():
        raise CheckpointError(f"{named} does not exist")
    if path.suffix not in (".safetensors", *PICKLED):
        raise CheckpointError(f"{named} ends in {path.suffix!r}: must be {', '.join(PICKLED)} or .safetensors")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(classes)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{named} is refused, as it is damaged or holds code and not tensors alone; where you trust it, save its "
            f"{f'{_either(entries)} entry' if entries else 'state dict'} as a .safetensors file: {error}"
        ) from error
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{named} cannot be read, it may be cut short: fetch or save it anew: {error}") from error
    if isinstance(found, dict):
        found = next((found[entry] for entry in entries if entry in found), found)
    if not isinstance(found, dict) or not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
        own = f", nor has it an entry {_either(entries)} that is one" if entries else ""
        raise CheckpointError(f"{named} is not a flat dict of tensors{own}: save model.state_dict() alone")
    return found


def _either(entries: Sequence[str]) -> str:
    return " or ".join(repr(entry) for entry in entries)
