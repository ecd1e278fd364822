"""Turns gradients into weights: what an engine promises, and the two that keep it (plain torch, DeepSpeed)."""

import atexit
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itercomp_rl.errors import ConfigError
from learners.engine.rendezvous import group_store

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """How one module is trained: AdamW with clipping, a learning rate schedule and a moving average.

    In bf16 the module's weights, activations and gradients are bf16; the master weights, Adam's moments and the moving
    average are fp32.

    Example: `EngineSpec(kind="deepspeed", zero_stage=2, dtype="bf16", lr=1e-5, grad_clip=1.0, ema_decay=0.999)`
    """

    kind: Literal["plain", "deepspeed"]
    lr: float
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"  # 8bit: Adam's moments in a byte each, by bitsandbytes
    zero_stage: int = 0  # what ranks share out: 0 nothing, 1 Adam's moments, 2 gradients too, 3 weights too
    dtype: Literal["fp32", "bf16"] = "fp32"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0  # largest global L2 norm of the averaged gradient; 0 = never clip
    ema_decay: float = 0.0  # weight of the past in the moving average; 0 = keep none
    lr_schedule: Literal["constant", "cosine"] = "constant"  # cosine: from lr to 0 over total_updates, no warm-up
    total_updates: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise ConfigError(f"engine.kind is {self.kind!r}: must be one of {', '.join(ENGINES)}")
        if self.zero_stage not in range(4):
            raise ConfigError(f"engine.zero_stage is {self.zero_stage}: must be 0, 1, 2 or 3")
        if self.kind == "plain" and self.zero_stage:
            raise ConfigError(
                f"engine.zero_stage is {self.zero_stage}, but the plain engine shares nothing out: "
                "set it to 0, or engine.kind to deepspeed"
            )
        if self.optimizer not in ("adamw", "adamw_8bit"):
            raise ConfigError(f"engine.optimizer is {self.optimizer!r}: must be adamw or adamw_8bit")
        if self.optimizer == "adamw_8bit" and self.kind != "plain":
            raise ConfigError(
                "engine.optimizer is adamw_8bit: set engine.kind to plain, DeepSpeed shards moments instead"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"engine.dtype is {self.dtype!r}: must be fp32 or bf16 (fp16 would need loss scaling)")
        if self.lr_schedule not in ("constant", "cosine"):
            raise ConfigError(f"engine.lr_schedule is {self.lr_schedule!r}: must be constant or cosine")
        if self.lr_schedule == "cosine" and not self.total_updates:
            raise ConfigError("engine.lr_schedule is cosine: set engine.total_updates to where it should reach 0")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("lr", "eps", "weight_decay", "grad_clip"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"engine.{name} is {value}: must be finite and not negative")
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("ema_decay", self.ema_decay)):
            if not 0 <= value < 1:
                raise ConfigError(f"engine.{name} is {getattr(self, name)}: must be at least 0 and less than 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A rank's place among the data-parallel ranks that train one module together; rank 0 listens on the address.

    Example: `Group(rank=1, world_size=2, master_addr="10.0.0.7", master_port=29500, timeout_s=600.0, backend="nccl")`
    """

    rank: int
    world_size: int
    master_addr: str
    master_port: int
    timeout_s: float  # how long a collective waits for a silent rank
    backend: Literal["gloo", "nccl"]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank {self.rank} is not one of the {self.world_size} ranks 0..{self.world_size - 1}")
        if self.backend not in ("gloo", "nccl"):
            raise ConfigError(f"backend is {self.backend!r}: must be gloo (CPU) or nccl (GPU)")


class Engine(Protocol):
    """One rank's share of training one module. With a group, every rank makes the same calls in the same order."""

    @property
    def module(self) -> nn.Module:
        """Call this, not the module handed in, for forward passes; it has the same signature and attributes."""
        ...

    @property
    def updates(self) -> int:
        """Updates made since the first one, those before a checkpoint included."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar loss; the caller divides by the number of micro-batches of an update.

        ZeRO 2 and 3 reduce here: all ranks call it equally often, for losses that use the same parameters.
        """
        ...

    def step(self) -> dict[str, float]:
        """One update from the mean over ranks of the added gradients: clip, AdamW, moving average.

        Returns: `grad_norm` before clipping, and the `lr` used. A parameter no loss reached has gradient 0.
        Raises: DivergedError if the norm is not finite; weights and counters stay, the gradients are dropped.
        """
        ...

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        """A copy of this rank's share of the trained weights on the CPU, in the module's dtype; see `share_of`.

        With `ema`, the moving average where one is kept, else the weights themselves. Not inside `ema_swapped`.
        """
        ...

    def ema_swapped(self) -> AbstractContextManager[None]:
        """While open, the module holds the moving average (its weights, where none is kept): to score, not to train."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what the ranks learnt to a folder that all of them see; complete once engine.json is there.

        Frozen parameters and buffers are left out: they come with the module.
        Raises: CheckpointError if the folder already holds a checkpoint.
        """
        ...

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` stood; the same module, kind, ZeRO stage, dtype and, under ZeRO 1-3, world size.

        Raises: CheckpointError if any of these differs, or if a part is missing or of another update.
        """
        ...

    def close(self) -> None:
        """Lets go of hooks and gradients. The process group stays: a process joins one group in its life."""
        ...


def share_of(sizes: Mapping[str, int], group: Group | None) -> frozenset[str]:
    """The parameters that a rank writes: every one is some rank's, and ranks have about as much of their sizes each."""
    loads = [0] * (group.world_size if group else 1)
    shares: list[list[str]] = [[] for _ in loads]
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        rank = loads.index(min(loads))
        loads[rank] += size
        shares[rank].append(name)
    return frozenset(shares[group.rank if group else 0])


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

_joined: Group | None = None


def join_group(group: Group) -> None:
    """Makes this process a rank of the group; once joined, asking for the same group again does nothing.

    Raises: ConfigError if the process already belongs to another group.
    """
    global _joined
    if _joined == group:
        return
    if _joined is not None or dist.is_initialized():
        raise ConfigError(f"this process is already in {_joined or 'a foreign group'} and cannot join {group} as well")
    timeout, store = timedelta(seconds=group.timeout_s), group_store(group)
    dist.init_process_group(group.backend, store=store, rank=group.rank, world_size=group.world_size, timeout=timeout)
    atexit.register(_leave_group)
    _joined = group


def _leave_group() -> None:
    """Lets gloo's threads drop what they hold before Python ends: one exit in ten aborted without.

    A thread of gloo lets go of the tensors of the last collective some time after that collective is done, and takes
    the interpreter's lock to do so. Taken while Python ends, the lock ends the thread in a way that aborts the process.
    """
    dist.destroy_process_group()
    time.sleep(0.2)  # sleeping lends the lock out; nothing tells when the threads are done with it
