"""The file of LAION's aesthetic head: five linear layers on an image embedding of CLIP."""

from pathlib import Path

from torch import nn

from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.tensors import read_tensors
from itercomp_rl.network.hub import fetch_file

_LINEAR = (0, 2, 4, 6, 7)  # places of the linear layers among the dropouts


def load_aesthetic_head(source: str, width: int) -> nn.Sequential:
    """The five linear layers of a head for embeddings of `width`, without its dropout, which scoring does not use.

    Args: source is a .pth, .pt or .safetensors file, or "owner/name:file" on the hub.
    Raises: CheckpointError for a missing or damaged file, other keys, or a head of another width.
    """
    state = read_tensors(_local(source), f"aesthetic head {source!r}")
    names = [f"layers.{i}" for i in _LINEAR]
    wanted = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    if set(state) != wanted:
        raise CheckpointError(f"aesthetic head {source!r} holds {sorted(state)}: must hold {sorted(wanted)}")
    layers: list[nn.Module] = []
    for name in names:
        weight = state[f"{name}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight.float(), "bias": state[f"{name}.bias"].float()})
        layers.append(layer)
    first = state["layers.0.weight"].shape[1]
    if first != width:
        raise CheckpointError(
            f"aesthetic head {source!r} takes embeddings of width {first}, the CLIP model gives {width}: LAION's heads "
            "of 768 belong to openai/clip-vit-large-patch14"
        )
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _local(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    repo, _, file = source.partition(":")
    if not file:
        raise CheckpointError(f"aesthetic head {source!r}: no such file; give one, or owner/name:file of the hub")
    return fetch_file(repo, file)
