"""Whether a .safetensors file is whole, told by its header and length alone: no weights are read."""

import json
from pathlib import Path

from itercomp_rl.errors import CheckpointError

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def check_whole(path: Path) -> None:
    """Raises: CheckpointError if the file is no safetensors file, or ends before or after its last tensor does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(f"{path} is damaged or no safetensors file: fetch or save it anew")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has a damaged header: fetch or save it anew") from error
    if (expected := 8 + length + max(ends, default=0)) != size:
        raise CheckpointError(f"{path} has {size} bytes and its header says {expected}: fetch or save it anew")
