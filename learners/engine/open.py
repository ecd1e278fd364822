"""Opens the engine that a spec names; each is imported only where it is used."""

from collections.abc import Callable

import torch
from torch import nn

from itercomp_rl.errors import ConfigError
from learners.engine.engine import Engine
from learners.engine.spec import EngineSpec, Group


def open_engine(module: nn.Module, spec: EngineSpec, group: Group | None, device: torch.device) -> Engine:
    """Moves the module to the device and dtype and makes it trainable by the engine that the spec names.

    Only parameters with `requires_grad` are trained. All ranks start from the weights of rank 0.
    Args: group: None trains alone; the plain engine then never touches torch.distributed.
    Raises: ConfigError if nothing is trainable, or the process is already in another group.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigError(f"{type(module).__name__} has no parameter with requires_grad: nothing to train")
    if group is not None and group.backend == "nccl" and device.type != "cuda":
        raise ConfigError(f"backend nccl cannot serve device {device}: use gloo, or give the learner a GPU")
    return ENGINES[spec.kind](module, spec, group, device)


def _open_plain(module: nn.Module, spec: EngineSpec, group: Group | None, device: torch.device) -> Engine:
    from learners.engine.plain import PlainEngine

    return PlainEngine(module, spec, group, device)


def _open_deepspeed(module: nn.Module, spec: EngineSpec, group: Group | None, device: torch.device) -> Engine:
    from learners.engine.zero import ZeroEngine  # the only way to deepspeed: plain users never import it

    return ZeroEngine(module, spec, group, device)


ENGINES: dict[str, Callable[[nn.Module, EngineSpec, Group | None, torch.device], Engine]] = {
    "plain": _open_plain,
    "deepspeed": _open_deepspeed,
}
