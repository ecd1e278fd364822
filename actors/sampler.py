"""Step 2 of a prompt's road: a sampler draws one model's images for a segment of prompts and commits them.

It also measures what a policy has forgotten, since it holds every version of the policy.
"""

import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.schema import GalleryConfig
from itercomp_rl.evaluation.denoising import PICTURES, denoising_losses
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import DrawOrder, MeasureOrder
from itercomp_rl.store.kinds import LOSSES
from itercomp_rl.store.store import Store

log = logging.getLogger(__name__)


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
        drawn = self._drawn(order)
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
            "set_aside": sorted({*order.skipped, *drawn.missing}),
            "notes": [dict(note) for note in drawn.notes],
            "draw_s": time.monotonic() - began,
        }
        if drawn.missing:
            row, why = next(iter(drawn.missing.items()))
            log.warning(
                "%s/%s lacks %d of %d images, such as that of %r: %s",
                order.kind,
                order.id,
                len(drawn.missing),
                len(order.prompts),
                order.prompts[row].text,
                why,
            )
        arrays = {"images": drawn.images, "seeds": np.array(order.seeds, np.int64)}
        self._store.put(order.kind, order.id, arrays, attrs)

    def images(self, order: DrawOrder) -> NDArray[np.uint8]:
        """Images [N, H, W, 3] handed back and not committed, for who keeps them elsewhere.

        Raises: GalleryError if one of them is missing.
        """
        return self._gallery.draw_all(order.model, [prompt.text for prompt in order.prompts], order.seeds)

    def measure(self, order: MeasureOrder) -> None:
        """Commit the denoising loss of each held-out picture; nothing is computed if it is committed."""
        if self._store.has(LOSSES, order.id):
            return
        pictures = PICTURES[order.source](self._store, order)
        policy = self._gallery.backbones.policy(order.model)
        losses = denoising_losses(policy, pictures, [prompt.text for prompt in order.prompts], order.seeds, self._batch)
        rows = [
            {"prompt": prompt.id, "seed": seed, "loss": loss}
            for prompt, seed, loss in zip(order.prompts, order.seeds, losses, strict=True)
        ]
        attrs = {"round": order.round, "model": order.model.name, "source": order.source, "rows": rows}
        self._store.put(LOSSES, order.id, {}, attrs)

    def unload(self) -> None:
        """Free every model; what the next order needs is loaded again."""
        self._gallery.unload()

    def try_drawing(self, order: DrawOrder) -> None:
        """Draw and keep nothing: whether this process lives on is what is asked."""
        self._drawn(order)

    def _drawn(self, order: DrawOrder) -> Drawn:
        """Images and notes of every row; skipped rows are black and have an empty note."""
        rows = [row for row in range(len(order.prompts)) if row not in order.skipped]
        texts = [order.prompts[row].text for row in rows]
        if len(rows) == len(order.prompts):
            return self._gallery.draw(order.model, texts, order.seeds)
        if not rows:
            return Drawn(images=np.zeros((len(order.prompts), 1, 1, 3), np.uint8), notes=({},) * len(order.prompts))
        drawn = self._gallery.draw(order.model, texts, [order.seeds[row] for row in rows])
        images = np.zeros((len(order.prompts), *drawn.images.shape[1:]), drawn.images.dtype)
        images[rows] = drawn.images
        notes = dict(zip(rows, drawn.notes, strict=True))
        return Drawn(
            images=images,
            notes=tuple(notes.get(row, {}) for row in range(len(order.prompts))),
            missing={rows[place]: why for place, why in drawn.missing.items()},
        )
