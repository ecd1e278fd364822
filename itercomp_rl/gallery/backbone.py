"""The checkpoints that a sampler has in memory, each once, however many gallery systems draw with it."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from itercomp_rl.diffusion.attention_kernel import check_attention, set_attention
from itercomp_rl.diffusion.checkpoint import WEIGHTS_NEEDED, check_drawing
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.gallery.any_pipeline import AnyPipeline
from itercomp_rl.items import ModelRef
from itercomp_rl.store.store import Store
from itercomp_rl.store.weights import open_version

T = TypeVar("T")


class Backbones:
    """Loads on first use and keeps the most recently used, up to `max_loaded` on `device`."""

    def __init__(
        self,
        store: Store,
        *,
        device: torch.device,
        dtype: str,
        max_loaded: int,
        attention: str = "sdpa",
        is_compiled: bool = False,
    ) -> None:
        self.device, self.dtype = device, dtype
        self._store, self._max_loaded = store, max_loaded
        self._attention, self._is_compiled = attention, is_compiled
        self._classes: dict[str, str] = {}  # of the pipeline, by checkpoint
        self._kept: dict[Hashable, Any] = {}  # Any: each key's maker knows its type

    def policy(self, model: ModelRef) -> Policy:
        """The model's checkpoint with the weights that its reference names, at the size it asks for."""
        dtype = model.dtype or self.dtype
        key = ("policy", model.checkpoint, model.role, model.version, dtype)
        policy = self.kept(key, lambda: self._load(model, dtype))
        if model.size_px is None:
            return policy
        # Another size needs no second copy of the weights, only other latents.
        resized = Policy(policy.pipeline, policy.family, resolution_px=model.size_px)
        resized.network = policy.network
        return resized

    def is_family(self, model: ModelRef) -> bool:
        """Whether the model's checkpoint is of a family that a policy can be."""
        if model.checkpoint not in self._classes:
            self._classes[model.checkpoint] = check_drawing(checkpoint_path(model.checkpoint))
        return self._classes[model.checkpoint] in WEIGHTS_NEEDED

    def pipeline(self, model: ModelRef) -> AnyPipeline:
        """The checkpoint of a model of any other class.

        Raises: ConfigError if gallery.attention or gallery.compile is set and the model cannot follow it.
        """
        dtype = model.dtype or self.dtype
        return self.kept(("pipeline", model.checkpoint, dtype), lambda: self._load_pipeline(model, dtype))

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned for this key; made (again) if it is not in memory, after the least used made room."""
        if key in self._kept:
            self._kept[key] = self._kept.pop(key)  # most recently used last
            return self._kept[key]
        while len(self._kept) >= self._max_loaded:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = make()
        return self._kept[key]

    def unload(self) -> None:
        """Free all of them."""
        self._kept.clear()

    def _load(self, model: ModelRef, dtype: str) -> Policy:
        policy = load_policy(checkpoint_path(model.checkpoint), dtype=dtype, device=self.device).to_channels_last()
        if model.role is not None and model.version is not None:
            load_published(policy, open_version(self._store, model.role, model.version))
        check_attention("gallery.attention", self._attention, policy.dtype, self.device)
        set_attention(policy.trainable, self._attention)
        if self._is_compiled:
            policy.network = torch.compile(policy.trainable)
        return policy

    def _load_pipeline(self, model: ModelRef, dtype: str) -> AnyPipeline:
        pipeline = AnyPipeline(str(checkpoint_path(model.checkpoint)), dtype=dtype, device=self.device)
        check_attention("gallery.attention", self._attention, pipeline.dtype, self.device)
        if (self._attention != "sdpa" or self._is_compiled) and not pipeline.denoisers():
            raise ConfigError(
                f"gallery.members.{model.name} has no network of diffusers' own that gallery.attention "
                f"({self._attention!r}) or gallery.compile could act on: set them to sdpa and false"
            )
        pipeline.hold_attention(self._attention)
        if self._is_compiled:
            pipeline.compile()
        return pipeline
