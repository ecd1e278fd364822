"""The engine on DeepSpeed's ZeRO: the one file that imports deepspeed."""

import logging
import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itercomp_rl.errors import ConfigError, DivergedError
from learners.engine.adamw import ClippedAdamW
from learners.engine.engine import check_rounding, refining, share_of
from learners.engine.rendezvous import join_group
from learners.engine.shard import Shard, fingerprint
from learners.engine.spec import EngineSpec, Group


def _import_deepspeed(device: torch.device) -> Any:  # Any: deepspeed's own annotations do not hold
    """Imports deepspeed for this kind of device; it decides once per process what it runs on.

    Raises: ConfigError if the process already uses it on another kind of device, or if it is too old.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # deepspeed's only way to learn its device
    import deepspeed

    accelerator = deepspeed.get_accelerator()
    assert accelerator is not None
    if accelerator.device_name() != device.type:
        in_use = accelerator.device_name()
        raise ConfigError(f"deepspeed runs on {in_use} in this process, so not on {device}: use one kind of device")
    if not hasattr(deepspeed.DeepSpeedEngine, "managed_gradient_accumulation"):  # it would ignore the setting
        raise ConfigError(f"deepspeed {deepspeed.__version__} cannot leave accumulation to its caller: install 0.19.8")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it writes to stdout; what matters here is raised
    # deepspeed 0.19 on torch 2.13: one such line for every gather and scatter
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    return deepspeed


def _config(spec: EngineSpec) -> dict[str, object]:
    is_bf16 = spec.dtype == "bf16"
    return {
        "train_micro_batch_size_per_gpu": 1,  # nothing but deepspeed's own throughput figure depends on it
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # step() ends an update, after any number of backward()
        "gradient_clipping": spec.grad_clip if spec.zero_stage else 0.0,  # at stage 0 ClippedAdamW clips
        "bf16": {"enabled": is_bf16, "check_grad_overflow": is_bf16},  # fp32 is always checked
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": spec.zero_stage, "overlap_comm": False},
    }


class ZeroEngine:
    """Trains one module under ZeRO stage 0 to 3. See `learners.engine.engine.Engine` for what each method promises.

    Without a group it makes a group of one, which the process then stays in.
    """

    def __init__(self, module: nn.Module, spec: EngineSpec, group: Group | None, device: torch.device) -> None:
        deepspeed = _import_deepspeed(device)
        self.spec, self.device = spec, device
        self.group = group or _group_of_one(device)
        join_group(self.group)
        # The shared-memory extension serves inference only and costs a minute of compiling: this is deepspeed's own
        # switch for platforms that lack it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=self.group.backend, auto_mpi_discovery=False, verbose=False)
        self._deepspeed = deepspeed
        self._gather = deepspeed.zero.GatheredParameters
        self.params = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shapes = {name: p.shape for name, p in self.params.items()}  # before stage 3 cuts them up
        self.own = share_of({name: p.numel() for name, p in self.params.items()}, self.group)
        parameters = fingerprint(module)
        self.adam = self._make_adam()
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=self.adam, model_parameters=list(self.params.values()), config=_config(spec)
        )
        for state in self.adam.state.values():
            state["step"].zero_()  # stage 0 in bf16 makes the moments by a step of its own
        self._clear_gradient_sums()
        place = (self.group.rank, self.group.world_size) if spec.zero_stage else (0, 1)
        self.shard = Shard(
            spec, self.group, self._masters(), self.adam, place=place, refresh=self._refresh, parameters=parameters
        )

    @property
    def module(self) -> nn.Module:
        return self._engine

    @property
    def updates(self) -> int:
        return self.shard.updates

    def restart_count(self) -> None:
        self.shard.restart_count()

    def check(self, folder: Path) -> None:
        self.shard.check(folder)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def step(self) -> dict[str, float]:
        lr = self.shard.set_lr()
        self._engine.step()
        self._clear_gradient_sums()
        if self._engine.optimizer.overflow:
            raise DivergedError(f"the gradient norm of update {self.updates} is not finite")
        self.shard.count_update()
        return {"grad_norm": float(self._engine.get_global_grad_norm()), "lr": lr}

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        with self.shard.holding(ema):
            copies = {name: self._copy(p, keep=name in self.own) for name, p in self.params.items()}
        return {name: copy for name, copy in copies.items() if name in self.own}

    def masters(self, ema: bool = True) -> dict[str, Tensor]:
        if self.spec.dtype == "fp32":
            return self.weights(ema)
        with self.shard.holding(ema):
            copies = {name: self._master(name, p, keep=name in self.own) for name, p in self.params.items()}
        return {name: copy for name, copy in copies.items() if name in self.own}

    @torch.no_grad()
    def refine(self, values: Iterable[tuple[str, Tensor]]) -> None:
        if self.spec.dtype == "fp32":
            return
        for name, value in refining(self.params, values):
            p = self.params[name]
            with self._gather([p]) if self.spec.zero_stage == 3 else nullcontext():
                check_rounding(name, value, p)
            self._set_master(name, p, value)
        self.shard.restart_average()

    def ema_swapped(self) -> AbstractContextManager[None]:
        return self.shard.ema_swapped()

    def save(self, folder: Path) -> None:
        self.shard.save(folder)

    def load(self, folder: Path) -> None:
        self.shard.load(folder)

    def close(self) -> None:
        """Under stage 3 the module is unusable from here on: its weights stay cut up."""
        self._engine.destroy()

    def _make_adam(self) -> torch.optim.AdamW:
        params, spec = self.params.values(), self.spec
        if spec.zero_stage == 0:
            return ClippedAdamW(params, spec)
        # From stage 1 on it sees but a part of every gradient: deepspeed takes the norm over all ranks, and clips.
        settings = {"betas": spec.betas, "eps": spec.eps, "weight_decay": spec.weight_decay}
        return torch.optim.AdamW(params, lr=0.0, fused=True if self.device.type == "cuda" else None, **settings)

    def _clear_gradient_sums(self) -> None:
        """Makes stage 3 add every gradient to a sum that starts at 0.

        Left alone it overwrites the sum until the first forward that follows a backward (losing the first of two
        losses whose forwards both came before), and a parameter that an update does not use keeps its last gradient.
        """
        if self.spec.zero_stage == 3:
            self._engine.optimizer.grad_partitions_flat_buffer.zero_()
            self._engine.optimizer.micro_step_id = 1

    def _masters(self) -> dict[str, Tensor]:
        optimizer, stage = self._engine.optimizer, self.spec.zero_stage
        if stage == 0:
            whole = self.params.values() if self.spec.dtype == "fp32" else optimizer.fp32_groups[0]
            return dict(zip(self.params, whole, strict=True))
        flat = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        return {f"flat.{i}": piece for i, piece in enumerate(flat)}

    @torch.no_grad()
    def _refresh(self) -> None:
        optimizer, stage = self._engine.optimizer, self.spec.zero_stage
        if stage == 0:
            for name, p in self.params.items():
                if self.shard.masters[name] is not p:
                    p.copy_(self.shard.masters[name])
        elif stage < 3:
            optimizer.update_lp_params()
        else:
            # As the end of deepspeed's own stage 3 step: let go of whole weights, renew the pieces, gather small ones.
            optimizer.empty_partition_cache()
            for i in range(len(self.shard.masters)):
                optimizer._reassign_or_swap_out_partitioned_parameters(i)
            if optimizer.persistent_parameters:
                optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def _master(self, name: str, p: nn.Parameter, *, keep: bool) -> Tensor:
        """The whole master of a parameter on the CPU, or nothing of it; ranks that share it out all ask together."""
        if self.spec.zero_stage == 0:
            whole: Tensor = self.shard.masters[name]
        else:
            whole = self._deepspeed.utils.safe_get_full_fp32_param(p)
        return whole.detach().to("cpu", copy=True).view(self.shapes[name]) if keep else torch.empty(0)

    def _set_master(self, name: str, p: nn.Parameter, value: Tensor) -> None:
        """Give this rank's part of a parameter's master the values of a whole one."""
        if self.spec.zero_stage == 0:
            self.shard.masters[name].copy_(value)
        elif self.spec.zero_stage < 3:
            self._deepspeed.utils.safe_set_full_fp32_param(p, value)
        else:
            # deepspeed's own setter leaves out that the last rank's part may be padded
            part, _ = self._engine.optimizer._get_fp32_opt_state_partition(p, release_swap_buffers=False)
            padded = torch.nn.functional.pad(value.flatten(), (0, part.numel() * self.group.world_size - value.numel()))
            part.copy_(padded.narrow(0, part.numel() * self.group.rank, part.numel()))

    def _copy(self, p: nn.Parameter, *, keep: bool) -> Tensor:
        """The whole parameter on the CPU, or nothing of it; under stage 3 all ranks gather it, whoever keeps it."""
        with self._gather([p]) if self.spec.zero_stage == 3 else nullcontext():
            return p.detach().to("cpu", copy=True) if keep else torch.empty(0)


def _group_of_one(device: torch.device) -> Group:
    backend = "nccl" if device.type == "cuda" else "gloo"
    return Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend=backend)
