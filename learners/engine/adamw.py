"""AdamW that clips by the global norm first, and refuses a step whose norm is not finite."""

from collections.abc import Iterable

import torch
from torch import Tensor

from learners.engine.spec import EngineSpec


class Clipping(torch.optim.Optimizer):
    """Before an AdamW: its steps first clip by the global norm, and leave all as it was where that norm is not finite.

    `overflow` says whether the last step was refused, `_global_grad_norm` the norm before clipping: the two names by
    which DeepSpeed asks any optimiser.
    """

    def __init__(self, params: Iterable[Tensor], spec: EngineSpec, **settings: bool | None) -> None:
        """settings: what the AdamW takes besides."""
        # lr 0 until it is set for an update: deepspeed makes a step of its own that must not decay the weights
        adamw = {"lr": 0.0, "betas": spec.betas, "eps": spec.eps, "weight_decay": spec.weight_decay, **settings}
        super().__init__(params, **adamw)  # type: ignore[arg-type]  # the next class in line is an AdamW
        self.max_norm = spec.grad_clip
        self.overflow = False
        self._global_grad_norm = 0.0

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a closure would step unclipped
        params = [p for param_group in self.param_groups for p in param_group["params"]]
        self._global_grad_norm, self.overflow = clip(params, self.max_norm)
        if not self.overflow:
            super().step()


class ClippedAdamW(Clipping, torch.optim.AdamW):
    """torch's AdamW, on a GPU its fused kernel."""

    def __init__(self, params: Iterable[Tensor], spec: EngineSpec) -> None:
        params = list(params)
        super().__init__(params, spec, fused=is_fused(params))


def is_fused(params: Iterable[Tensor]) -> bool | None:
    """The `fused` argument of AdamW: True on a GPU, where its default makes temporaries as large as the weights."""
    return True if all(p.device.type == "cuda" for p in params) else None


def clip(params: list[Tensor], max_norm: float) -> tuple[float, bool]:
    """Shorten the gradients to a global norm; returns the norm before, and whether it is not finite: then all stays."""
    for p in params:
        if p.grad is None:  # AdamW would skip it; a weight decays and its moments fade on every rank or on none
            p.grad = torch.zeros_like(p)
    norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    is_finite = bool(norm.isfinite())
    if is_finite and max_norm:
        torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
    return norm.item(), not is_finite
