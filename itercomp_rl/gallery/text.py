"""Text-based gallery systems: any diffusers text-to-image checkpoint, drawn from the prompt alone."""

from collections.abc import Sequence

from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.sampling import negatives, sample
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef


class TextSystem:
    """SD1.x, SDXL, SD3 and FLUX checkpoints, the policies of a run, and all other pipelines; satisfies GallerySystem.

    Other pipelines draw by their own code, which decides how much an image depends on its batch.
    """

    def __init__(self, backbones: Backbones) -> None:
        self._backbones = backbones

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says."""
        if not self._backbones.is_family(model):
            images = self._backbones.pipeline(model).draw(model, prompts, seeds)
            return Drawn(images=images, notes=({},) * len(prompts))
        policy = self._backbones.policy(model)
        network = policy.guided(policy.encode(prompts), model.guidance, negatives(model, len(prompts)))
        return Drawn(images=sample(policy, model, network, seeds), notes=({},) * len(prompts))
