"""LMD+: a planner puts things into boxes; GLIGEN's layers and the words' own attention keep them there."""

from collections.abc import Sequence

from itercomp_rl.diffusion.sd import StableDiffusion
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.lmd.denoiser import LmdDenoiser, LmdSettings
from itercomp_rl.gallery.planning.planners import Planners
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef


class Lmd:
    """Layouts on GLIGEN or plain Stable Diffusion 1 and 2 checkpoints; satisfies GallerySystem."""

    def __init__(self, backbones: Backbones, planners: Planners) -> None:
        self._backbones, self._planners = backbones, planners

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """As GallerySystem says; the notes hold each image's plan, and the phrases that attention could not follow."""
        planned = self._planners.layouts(model.planner, prompts)
        policy = self._backbones.policy(model)
        if not isinstance(policy.family, StableDiffusion):
            raise ConfigError(
                f"gallery.members.{model.name}.model is {model.checkpoint!r}: system 'lmd' needs a checkpoint of "
                "Stable Diffusion 1 or 2, or of GLIGEN"
            )
        settings = LmdSettings(scale=model.attention_scale, reference_weight=model.reference_weight)
        images, unseen = LmdDenoiser(policy, settings).draw(
            [layout for layout, _ in planned],
            seeds,
            model.num_steps,
            guidance=model.guidance,
            negative=model.negative,
            kind=model.scheduler,
        )
        notes = tuple({**note, "unseen": list(phrases)} for (_, note), phrases in zip(planned, unseen, strict=True))
        return Drawn(images=images, notes=notes)
