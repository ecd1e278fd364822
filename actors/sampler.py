"""Step 2 of a prompt's road: a sampler draws one model's images for a segment of prompts and commits them."""

import time

import numpy as np
import torch

from itercomp_rl.gallery.text import TextGallery
from itercomp_rl.items import DrawOrder
from itercomp_rl.schema import GalleryConfig
from itercomp_rl.store.store import Store


class Sampler:
    """Draws with whichever model an order names."""

    def __init__(self, store: Store, settings: GalleryConfig, device: torch.device) -> None:
        self._store = store
        self._gallery = TextGallery(
            store,
            batch=settings.batch,
            device=device,
            dtype=settings.dtype,
            max_loaded=settings.max_loaded,
            attention=settings.attention,
            compile_networks=settings.compile,
        )

    def draw(self, order: DrawOrder) -> None:
        """Commit images [N, H, W, 3] and their seeds [N]; nothing is drawn if they are committed."""
        if self._store.has(order.kind, order.id):
            return
        began = time.monotonic()
        images = self._gallery.draw(order.model, [prompt.text for prompt in order.prompts], order.seeds)
        attrs = {
            "round": order.round,
            "model": order.model.name,
            "checkpoint": order.model.checkpoint,
            "policy_version": order.model.version,
            "num_steps": order.model.num_steps,
            "guidance": order.model.guidance,
            "prompts": [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in order.prompts],
            "draw_s": time.monotonic() - began,
        }
        self._store.put(order.kind, order.id, {"images": images, "seeds": np.array(order.seeds, np.int64)}, attrs)
