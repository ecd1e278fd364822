"""AdamW whose moments take a byte each: the one file that imports bitsandbytes, which need not be installed."""

import bitsandbytes  # pyright: ignore[reportMissingImports] an extra: pip install itercomp-rl[gpu]

from learners.engine.adamw import Clipping


class ClippedAdamW8bit(Clipping, bitsandbytes.optim.AdamW8bit):
    """As `ClippedAdamW`, with moments of 8 bits in blocks of 256, each with its largest value; tensors under 4,096
    weights keep fp32.

    Source: 8-bit Optimizers via Block-wise Quantization (arXiv 2110.02861).
    """

    MOMENTS = ("state1", "state2", "absmax1", "absmax2")

    def make_moments(self, steps: int | None = None) -> None:
        """Zero moments for every weight that has none yet; `steps` says how many steps all are of."""
        for group_index, group in enumerate(self.param_groups):
            for index, weight in enumerate(group["params"]):
                if not self.state[weight]:
                    self.init_state(group, weight, group_index, index)
                if steps is not None:
                    self.state[weight]["step"] = steps
