"""The gallery as one sampler sees it: every system by name, drawing in batches with backbones loaded once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.schema import EXTERNAL, GalleryConfig
from itercomp_rl.errors import ConfigError, DivergedError, GalleryError
from itercomp_rl.gallery.backbone import Backbones
from itercomp_rl.gallery.external.endpoint_system import EndpointSystem
from itercomp_rl.gallery.external.folder_system import FolderSystem
from itercomp_rl.gallery.instance_diffusion.system import InstanceDiffusion
from itercomp_rl.gallery.lmd.system import Lmd
from itercomp_rl.gallery.omost.system import Omost
from itercomp_rl.gallery.planning.planners import Planners
from itercomp_rl.gallery.rpg.system import Rpg
from itercomp_rl.gallery.system import Drawn, GallerySystem
from itercomp_rl.gallery.text import TextSystem
from itercomp_rl.items import ModelRef
from itercomp_rl.store.store import Store


class Gallery:
    """Draws with whichever system and model a reference names."""

    def __init__(self, store: Store, settings: GalleryConfig, device: torch.device) -> None:
        self.backbones = Backbones(
            store,
            device=device,
            dtype=settings.dtype,
            max_loaded=settings.max_loaded,
            attention=settings.attention,
            is_compiled=settings.compile,
        )
        self.planners = Planners(store, settings.planners, device)
        self.endpoints = settings.endpoints
        self._batch = settings.batch
        self._systems: dict[str, GallerySystem] = {}

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """Finished images, one per prompt and seed.

        Raises: ConfigError for an unknown system or unequal counts; DivergedError for an image that is not finite;
        GalleryError if an endpoint gives no images.
        """
        if len(prompts) != len(seeds):
            raise ConfigError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed per prompt")
        system = self._system(model.system)
        parts = [
            _drawn(system, model, prompts[start : start + self._batch], seeds[start : start + self._batch])
            for start in range(0, len(prompts), self._batch)
        ]
        return Drawn(
            images=_joined(parts),
            notes=tuple(note for part in parts for note in part.notes),
            missing={i * self._batch + row: why for i, part in enumerate(parts) for row, why in part.missing.items()},
        )

    def draw_all(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Images [N, H, W, 3] as `draw` makes them. Raises: as `draw`, and GalleryError if any of them is missing."""
        drawn = self.draw(model, prompts, seeds)
        if drawn.missing:
            row, why = next(iter(drawn.missing.items()))
            raise GalleryError(
                f"{model.name} ({model.checkpoint}) gives no image of {len(drawn.missing)} of {len(prompts)} prompts, "
                f"such as {prompts[row]!r}: {why}"
            )
        return drawn.images

    def unload(self) -> None:
        """Free every model that draws or plans; they are loaded again when they are next needed."""
        self._systems = {name: system for name, system in self._systems.items() if name in EXTERNAL}
        self.backbones.unload()
        self.planners.unload()

    def _system(self, name: str) -> GallerySystem:
        if name not in SYSTEMS:
            raise ConfigError(f"system is {name!r}: must be one of {', '.join(SYSTEMS)}")
        if name not in self._systems:
            self._systems[name] = SYSTEMS[name](self)
        return self._systems[name]


def _joined(parts: Sequence[Drawn]) -> NDArray[np.uint8]:
    """The images of all batches; one that lacks all of its images need not have their size."""
    shape = next((part.images.shape[1:] for part in parts if len(part.missing) < len(part.images)), None)
    if shape is None:
        return np.concatenate([part.images for part in parts])
    lacks_all = [len(part.missing) == len(part.images) for part in parts]
    return np.concatenate(
        [
            np.zeros((len(part.images), *shape), np.uint8) if is_black else part.images
            for part, is_black in zip(parts, lacks_all, strict=True)
        ]
    )


def _drawn(system: GallerySystem, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
    """One batch; what goes wrong in its numbers is told with the model and the prompts."""
    try:
        return system.draw(model, prompts, seeds)
    except DivergedError as error:
        asked = ", ".join(repr(prompt[:60]) for prompt in prompts)
        raise DivergedError(f"{model.name} ({model.checkpoint}): {error}; the batch's prompts: {asked}") from error


SYSTEMS: dict[str, Callable[[Gallery], GallerySystem]] = {
    "text": lambda gallery: TextSystem(gallery.backbones),
    "rpg": lambda gallery: Rpg(gallery.backbones, gallery.planners),
    "omost": lambda gallery: Omost(gallery.backbones, gallery.planners),
    "lmd": lambda gallery: Lmd(gallery.backbones, gallery.planners),
    "instance_diffusion": lambda gallery: InstanceDiffusion(gallery.backbones, gallery.planners),
    "folder": lambda gallery: FolderSystem(),
    "endpoint": lambda gallery: EndpointSystem(gallery.endpoints),
}
