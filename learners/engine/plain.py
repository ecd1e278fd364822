"""The engine in plain torch: every rank holds everything, gradients meet in one all-reduce."""

import importlib.util
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itercomp_rl.errors import ConfigError, DivergedError
from learners.engine.adamw import ClippedAdamW
from learners.engine.engine import check_rounding, refining, share_of
from learners.engine.rendezvous import join_group
from learners.engine.shard import Shard, fingerprint
from learners.engine.spec import DTYPES, EngineSpec, Group


class PlainEngine:
    """Trains one module, alone or as a replica in a group; `learners.engine.engine.Engine` documents its methods.

    A checkpoint holds the whole state once, so it resumes under any number of ranks.
    """

    def __init__(self, module: nn.Module, spec: EngineSpec, group: Group | None, device: torch.device) -> None:
        self.spec, self.group = spec, group
        self.module: nn.Module = module.to(device)
        self._cast_parameters(DTYPES[spec.dtype])
        if group is not None:
            join_group(group)
            for p in module.parameters():
                dist.broadcast(p.detach(), src=0)
        self.params = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.own = share_of({name: p.numel() for name, p in self.params.items()}, group)
        masters: dict[str, Tensor] = dict(self.params)
        if spec.dtype != "fp32":
            masters = {name: p.detach().float() for name, p in self.params.items()}
        self.adam = _adam(masters.values(), spec)
        self.shard = Shard(
            spec, group, masters, self.adam, place=(0, 1), refresh=self._refresh, parameters=fingerprint(module)
        )

    @property
    def updates(self) -> int:
        return self.shard.updates

    def restart_count(self) -> None:
        self.shard.restart_count()

    def check(self, folder: Path) -> None:
        self.shard.check(folder)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> dict[str, float]:
        assert any(p.grad is not None for p in self.params.values()), "step() without backward()"
        lr = self.shard.set_lr()
        self._hand_over_gradients()
        self.adam.step()
        self._drop_gradients()
        if self.adam.overflow:
            raise DivergedError(f"the gradient norm of update {self.updates} is {self.adam._global_grad_norm}")
        self.shard.count_update()
        self._refresh()
        return {"grad_norm": self.adam._global_grad_norm, "lr": lr}

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        with self.shard.holding(ema):
            return {name: p.detach().to("cpu", copy=True) for name, p in self.params.items() if name in self.own}

    def masters(self, ema: bool = True) -> dict[str, Tensor]:
        source = self.shard.ema if ema and self.shard.ema else self.shard.masters
        return {name: source[name].detach().to("cpu", copy=True) for name in self.params if name in self.own}

    def refine(self, values: Iterable[tuple[str, Tensor]]) -> None:
        if self.spec.dtype != "fp32":
            for name, value in refining(self.params, values):
                check_rounding(name, value, self.params[name])
                self.shard.masters[name].copy_(value)
            self.shard.restart_average()

    def ema_swapped(self) -> AbstractContextManager[None]:
        return self.shard.ema_swapped()

    def save(self, folder: Path) -> None:
        self.shard.save(folder)

    def load(self, folder: Path) -> None:
        self.shard.load(folder)

    def close(self) -> None:
        self._drop_gradients()

    def _cast_parameters(self, dtype: torch.dtype) -> None:
        # Parameters only, as DeepSpeed does: a buffer (a noise schedule, say) keeps the precision it was made in.
        for p in self.module.parameters():
            p.data = p.data.to(dtype)

    @torch.no_grad()
    def _hand_over_gradients(self) -> None:
        """Gives every master the gradient of its parameter: in fp32, averaged over the ranks.

        A parameter's own gradient is freed as soon as it is copied, so that the two sets are never complete at once.
        """
        pairs = [(p, self.shard.masters[name]) for name, p in self.params.items()]
        world_size = self.group.world_size if self.group else 1
        if world_size == 1:
            for p, master in pairs:
                if master is not p:
                    master.grad = None if p.grad is None else p.grad.float()
                    p.grad = None
            return
        bucket = torch.zeros(sum(p.numel() for p, _ in pairs), device=pairs[0][0].device)
        flats = bucket.split([p.numel() for p, _ in pairs])
        for (p, _), flat in zip(pairs, flats, strict=True):
            if p.grad is not None:
                flat.copy_(p.grad.reshape(-1))
                p.grad = None
        dist.all_reduce(bucket)
        bucket /= world_size
        for (p, master), flat in zip(pairs, flats, strict=True):
            master.grad = flat.view_as(p)

    def _drop_gradients(self) -> None:
        for name, p in self.params.items():
            p.grad = None
            self.shard.masters[name].grad = None

    @torch.no_grad()
    def _refresh(self) -> None:
        for name, p in self.params.items():
            if self.shard.masters[name] is not p:
                p.copy_(self.shard.masters[name])


def _adam(masters: Iterable[Tensor], spec: EngineSpec) -> Any:  # Any: torch's AdamW or one shaped like it
    if spec.optimizer == "adamw":
        return ClippedAdamW(masters, spec)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "engine.optimizer is 'adamw_8bit', and bitsandbytes is not installed here: pip install itercomp-rl[gpu], "
            "or set it to adamw"
        )
    from learners.engine.adam_8bit import ClippedAdamW8bit

    return ClippedAdamW8bit(masters, spec)
