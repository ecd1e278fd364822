"""Rules of an engine (how gradients become weights), for the config's keys and for whoever opens an engine directly."""

from typing import Protocol

from itercomp_rl.config.rules.terms import one_of, require

KINDS = ("plain", "deepspeed")
OPTIMIZERS = ("adamw", "adamw_8bit")
LR_SCHEDULES = ("constant", "cosine")
DTYPES = ("fp32", "bf16")  # fp16 would need loss scaling


class EngineChoice(Protocol):
    """The choices that must go together; `EngineConfig` and the learners' `EngineSpec` both make them."""

    @property
    def kind(self) -> str: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def zero_stage(self) -> int: ...
    @property
    def lr_schedule(self) -> str: ...
    @property
    def lr_warmup(self) -> int: ...


def check_engine(key: str, engine: EngineChoice) -> None:
    """Check the choices under config key `key`, such as "policy.engine". Raises: ConfigError."""
    one_of(f"{key}.kind", engine.kind, KINDS)
    one_of(f"{key}.optimizer", engine.optimizer, OPTIMIZERS)
    require(
        engine.optimizer == "adamw" or engine.kind == "plain",
        f"{key}.optimizer",
        engine.optimizer,
        f"needs {key}.kind plain: DeepSpeed shares Adam's moments out instead ({key}.zero_stage)",
    )
    one_of(f"{key}.dtype", engine.dtype, DTYPES)
    require(engine.zero_stage in range(4), f"{key}.zero_stage", engine.zero_stage, "must be 0, 1, 2 or 3")
    one_of(f"{key}.lr_schedule", engine.lr_schedule, LR_SCHEDULES)
    require(engine.lr_warmup >= 0, f"{key}.lr_warmup", engine.lr_warmup, "must be 0 or more")
