"""Text-based gallery systems: any checkpoint of a known family, drawn from the prompt alone."""

from collections.abc import Sequence

from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef


class TextSystem:
    """SD1.x, SDXL, SD3 and FLUX checkpoints, and the policies of a run; satisfies GallerySystem."""

    def __init__(self, backbones: Backbones) -> None:
        self._backbones = backbones

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says."""
        images = self._backbones.policy(model).draw(
            prompts,
            seeds,
            model.num_steps,
            guidance=model.guidance,
            negative=None if model.negative is None else [model.negative] * len(prompts),
            kind=model.scheduler,
        )
        return Drawn(images=images, notes=({},) * len(prompts))
