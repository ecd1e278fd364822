"""What every gallery system is to the sampler that draws with it, whatever happens between prompt and image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.items import ModelRef

Note = Mapping[str, Any]  # JSON that is kept beside one image


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Finished images, and what the store shall remember of each: the plan it was drawn by, a planner's fall-back.

    Drawn(images=np.zeros((1, 32, 32, 3), np.uint8), notes=({"planner": "rule", "fallback": None},))
    """

    images: NDArray[np.uint8] = field(repr=False)  # [N, H, W, 3]; a missing one is black
    notes: tuple[Note, ...]  # one per image; empty where there is nothing to say
    missing: Mapping[int, str] = field(default_factory=dict)  # rows without an image, of which some systems lack some


class GallerySystem(Protocol):
    """A way from prompts to images; built once per sampler, with the Backbones that all systems share."""

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """One batch, an image per prompt and seed, each from its own generator.

        An image is the same bit for bit when the same batch is drawn again, and to float32 rounding in any other batch.
        Raises: ConfigError or CheckpointError if the model cannot be drawn with by this system.
        """
        ...
