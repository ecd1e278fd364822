"""Text-based gallery systems: any checkpoint of a known family, drawn from the prompt alone."""

from collections.abc import Sequence

from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.sampling import negatives, sample
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef


class TextSystem:
    """SD1.x, SDXL, SD3 and FLUX checkpoints, and the policies of a run; satisfies GallerySystem."""

    def __init__(self, backbones: Backbones) -> None:
        self._backbones = backbones

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says."""
        policy = self._backbones.policy(model)
        network = policy.guided(policy.encode(prompts), model.guidance, negatives(model, len(prompts)))
        return Drawn(images=sample(policy, model, network, seeds), notes=({},) * len(prompts))
