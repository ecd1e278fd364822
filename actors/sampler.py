"""Step 2 of a prompt's road: a sampler draws one model's images for a segment of prompts and commits them.

It also measures what a policy has forgotten, since it holds every version of the policy.
"""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.evaluation.denoising import PICTURES, denoising_losses
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.items import DrawOrder, MeasureOrder
from itercomp_rl.schema import GalleryConfig
from itercomp_rl.store.store import Store


class Sampler:
    """Draws with whichever system and model an order names."""

    def __init__(self, store: Store, settings: GalleryConfig, device: torch.device) -> None:
        self._store, self._batch = store, settings.batch
        self._gallery = Gallery(store, settings, device)

    def draw(self, order: DrawOrder) -> None:
        """Commit images [N, H, W, 3], their seeds [N] and notes; nothing is drawn if they are committed."""
        if self._store.has(order.kind, order.id):
            return
        began = time.monotonic()
        drawn = self._gallery.draw(order.model, [prompt.text for prompt in order.prompts], order.seeds)
        attrs = {
            "round": order.round,
            "model": order.model.name,
            "system": order.model.system,
            "checkpoint": order.model.checkpoint,
            "policy_version": order.model.version,
            "num_steps": order.model.num_steps,
            "guidance": order.model.guidance,
            "scheduler": order.model.scheduler,
            "negative": order.model.negative,
            "prompts": [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in order.prompts],
            "notes": [dict(note) for note in drawn.notes],
            "draw_s": time.monotonic() - began,
        }
        arrays = {"images": drawn.images, "seeds": np.array(order.seeds, np.int64)}
        self._store.put(order.kind, order.id, arrays, attrs)

    def images(self, order: DrawOrder) -> NDArray[np.uint8]:
        """Images [N, H, W, 3] handed back and not committed, for who keeps them elsewhere."""
        return self._gallery.draw(order.model, [prompt.text for prompt in order.prompts], order.seeds).images

    def measure(self, order: MeasureOrder) -> None:
        """Commit the denoising loss of each held-out picture; nothing is computed if it is committed."""
        if self._store.has("losses", order.id):
            return
        pictures = PICTURES[order.source](self._store, order)
        policy = self._gallery.backbones.policy(order.model)
        losses = denoising_losses(policy, pictures, [prompt.text for prompt in order.prompts], order.seeds, self._batch)
        rows = [
            {"prompt": prompt.id, "seed": seed, "loss": loss}
            for prompt, seed, loss in zip(order.prompts, order.seeds, losses, strict=True)
        ]
        attrs = {"round": order.round, "model": order.model.name, "source": order.source, "rows": rows}
        self._store.put("losses", order.id, {}, attrs)
