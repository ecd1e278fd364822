"""Text-to-image systems of the gallery: pipelines loaded once, drawn in batches, one generator per image."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.attention import check_attention, set_attention
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.items import ModelRef
from itercomp_rl.models import checkpoint_path
from itercomp_rl.store.store import Store


class TextGallery:
    """The models one sampler can draw with; the most recently used stay loaded, up to `max_loaded`."""

    def __init__(
        self,
        store: Store,
        *,
        batch: int,
        device: torch.device,
        dtype: str,
        max_loaded: int,
        attention: str = "sdpa",
        compile_networks: bool = False,
    ) -> None:
        self._store, self._batch, self._device, self._dtype = store, batch, device, dtype
        self._max_loaded, self._attention, self._compile = max_loaded, attention, compile_networks
        self._loaded: dict[tuple[str, str | None, int | None, int | None], Policy] = {}

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Finished images [N, H, W, 3], one per prompt and seed; each depends on its own seed alone (to rounding)."""
        policy = self._policy(model)
        parts = [
            policy.draw(
                prompts[start : start + self._batch],
                seeds[start : start + self._batch],
                model.num_steps,
                guidance=model.guidance,
            )
            for start in range(0, len(prompts), self._batch)
        ]
        return np.concatenate(parts)

    def _policy(self, model: ModelRef) -> Policy:
        key = (model.checkpoint, model.role, model.version, model.size_px)
        if key in self._loaded:
            self._loaded[key] = self._loaded.pop(key)  # most recently used last
            return self._loaded[key]
        while len(self._loaded) >= self._max_loaded:
            self._loaded.pop(next(iter(self._loaded)))
        policy = load_policy(
            checkpoint_path(model.checkpoint),
            dtype=self._dtype,
            device=self._device,
            resolution_px=model.size_px,
        )
        check_attention("gallery.attention", self._attention, policy.dtype, self._device)
        if model.role is not None and model.version is not None:
            load_published(policy, self._store, model.role, model.version)
        set_attention(policy.trainable, self._attention)
        if self._compile:
            policy.network = torch.compile(policy.trainable)
        self._loaded[key] = policy
        return policy
