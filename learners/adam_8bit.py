"""AdamW whose moments take a byte each: the one file that imports bitsandbytes, which need not be installed."""

from collections.abc import Iterable

import bitsandbytes  # pyright: ignore[reportMissingImports] an extra: pip install itercomp-rl[gpu]
from torch import Tensor

from learners.engine import EngineSpec
from learners.plain_engine import clip


class ClippedAdamW8bit(bitsandbytes.optim.AdamW8bit):
    """As `ClippedAdamW`, with moments of 8 bits in blocks of 256, each with its largest value; tensors under 4,096
    weights keep fp32.

    Source: 8-bit Optimizers via Block-wise Quantization (arXiv 2110.02861).
    """

    MOMENTS = ("state1", "state2", "absmax1", "absmax2")

    def __init__(self, params: Iterable[Tensor], spec: EngineSpec) -> None:
        super().__init__(params, lr=0.0, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay)
        self.max_norm = spec.grad_clip
        self.overflow = False
        self._global_grad_norm = 0.0

    def step(self, closure: None = None) -> None:
        params = [p for param_group in self.param_groups for p in param_group["params"]]
        self._global_grad_norm, self.overflow = clip(params, self.max_norm)
        if not self.overflow:
            super().step()

    def make_moments(self, updates: int | None = None) -> None:
        """Zero moments for every weight that has none yet; `updates` says how many updates all are of."""
        for group_index, group in enumerate(self.param_groups):
            for index, weight in enumerate(group["params"]):
                if not self.state[weight]:
                    self.init_state(group, weight, group_index, index)
                if updates is not None:
                    self.state[weight]["step"] = updates
