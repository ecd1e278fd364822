"""The settings of an engine and its place in a group of processes, as plain data."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from itercomp_rl.config.rules.engine import check_engine
from itercomp_rl.config.schema import EngineConfig
from itercomp_rl.errors import ConfigError

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
    lr_warmup: int = 0  # steps over which the rate rises to lr; 0 = begin with lr
    lr_schedule: Literal["constant", "cosine"] = "constant"  # cosine: from lr to 0 at total_steps
    total_steps: int | None = None

    def __post_init__(self) -> None:
        check_engine("engine", self)
        if self.kind == "plain" and self.zero_stage:
            raise ConfigError(
                f"engine.zero_stage is {self.zero_stage}, but the plain engine shares nothing out: "
                "set it to 0, or engine.kind to deepspeed"
            )
        if self.lr_schedule == "cosine" and not self.total_steps:
            raise ConfigError("engine.lr_schedule is cosine: set engine.total_steps to where it should reach 0")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("lr", "eps", "weight_decay", "grad_clip", "lr_warmup"):
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


def engine_spec(engine: EngineConfig, total_steps: int) -> EngineSpec:
    """The engine that a config chooses. total_steps: of the whole training, for the schedule of the learning rate."""
    return EngineSpec(
        kind=engine.kind,  # type: ignore[arg-type]  # checked with the config
        zero_stage=engine.zero_stage if engine.kind == "deepspeed" else 0,
        optimizer=engine.optimizer,  # type: ignore[arg-type]  # likewise
        dtype=engine.dtype,  # type: ignore[arg-type]  # likewise
        lr=engine.lr,
        lr_warmup=engine.lr_warmup,
        lr_schedule=engine.lr_schedule,  # type: ignore[arg-type]  # likewise
        total_steps=total_steps,
        weight_decay=engine.weight_decay,
        grad_clip=engine.grad_clip,
        ema_decay=engine.ema,
    )
