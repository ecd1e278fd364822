"""Text-to-image pipelines of diffusers that are no policy family: called as their own code says, one seed per image."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from numpy.typing import NDArray

from itercomp_rl.diffusion.attention_kernel import kernel
from itercomp_rl.diffusion.checkpoint import drawing_checkpoint, loading
from itercomp_rl.diffusion.family import DTYPES
from itercomp_rl.diffusion.policy import refuse_not_finite
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.items import ModelRef
from itercomp_rl.network.hub import check_reach

_NEEDED = ("prompt", "generator", "num_inference_steps", "output_type")
_NO_KERNEL = "No available kernel"  # torch's words where the only kernel allowed cannot serve


class AnyPipeline:
    """One such checkpoint, loaded; its weights are safetensors and its code is diffusers' own."""

    def __init__(self, checkpoint: str, *, dtype: str, device: torch.device) -> None:
        """Raises: CheckpointError if it cannot be loaded or does not draw from text; ConfigError for the dtype."""
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}: must be one of {', '.join(DTYPES)}")
        check_reach(checkpoint)
        found = drawing_checkpoint(checkpoint)
        found.log_variant()
        with loading(checkpoint):
            # Any: every pipeline has a call of its own.
            self._pipeline: Any = DiffusionPipeline.from_pretrained(
                checkpoint, dtype=DTYPES[dtype], use_safetensors=True, variant=found.variant
            )
        self._takes = set(inspect.signature(type(self._pipeline).__call__).parameters)
        if missing := [name for name in _NEEDED if name not in self._takes]:
            raise CheckpointError(
                f"{checkpoint} is a {type(self._pipeline).__name__}, whose call takes no {', '.join(missing)}: a "
                "text-to-image pipeline is needed"
            )
        self._pipeline.to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._scheduler: Any = getattr(self._pipeline, "scheduler", None)
        self._attention = "sdpa"

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._pipeline.dtype

    def denoisers(self) -> list[ModelMixin]:
        """The networks that are asked at every step: diffusers' own, but for what decodes latents (the VAE)."""
        parts = self._pipeline.components.values()
        return [part for part in parts if isinstance(part, ModelMixin) and not hasattr(part, "decode")]

    def hold_attention(self, kind: str) -> None:
        """Let the denoisers' attention run `kind`; to be checked first.

        Around the whole pass, not in each layer as for the families: diffusers hands a layer's processor only the
        arguments that its signature names, and layers here may have more than a wrapper can name.
        """
        self._attention = kind
        if kind != "sdpa":
            for network in self.denoisers():
                network.forward = _within_kernel(network.forward, kind)

    def compile(self) -> None:
        """Let torch compile the denoisers when they first run."""
        for network in self.denoisers():
            network.compile()

    @torch.no_grad()
    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Images [B, H, W, 3], one per prompt and seed, each from its own generator.

        Raises: ConfigError for a setting that this pipeline does not have, the kernel of hold_attention included;
        CheckpointError if it draws no pictures; DivergedError if one is not finite.
        """
        self._take_scheduler(model)
        asked = {
            "guidance_scale": model.guidance,
            "negative_prompt": None if model.negative is None else [model.negative] * len(prompts),
            "height": model.size_px,
            "width": model.size_px,
            "use_resolution_binning": False,  # the size that is asked for, not the nearest usual one
        }
        for name, value in (("negative", "negative_prompt"), ("size_px", "height")):
            if asked[value] is not None and value not in self._takes:
                raise ConfigError(f"gallery.members.{model.name}.{name} is set, and {self._name} takes none")
        given = {name: value for name, value in asked.items() if name in self._takes and value is not None}
        images = np.asarray(self._called(model, prompts, seeds, given))
        if images.ndim != 4 or images.shape[0] != len(prompts) or images.shape[-1] != 3:
            raise CheckpointError(
                f"{model.checkpoint} drew an array of {images.shape}: pictures [B, H, W, 3] are needed"
            )
        refuse_not_finite([bool(np.isfinite(image).all()) for image in images])
        return (images * 255).round().clip(0, 255).astype(np.uint8)

    def _called(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int], given: dict[str, Any]) -> Any:
        try:
            return self._pipeline(
                prompt=list(prompts),
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                num_inference_steps=model.num_steps,
                output_type="np",
                **given,
            ).images
        except RuntimeError as error:
            if self._attention == "sdpa" or _NO_KERNEL not in str(error):
                raise
            raise ConfigError(
                f"gallery.attention is {self._attention!r}, and gallery.members.{model.name} cannot run it: the "
                f"attention of its {self._name} has masks or sizes that the kernel does not take; set it to sdpa"
            ) from error

    @property
    def _name(self) -> str:
        return type(self._pipeline).__name__

    def _take_scheduler(self, model: ModelRef) -> None:
        """The checkpoint's own, afresh, or another class of diffusers' that fits it."""
        own, key = self._scheduler, f"gallery.members.{model.name}.scheduler"
        if own is None:
            if model.scheduler is not None:
                raise ConfigError(f"{key} is {model.scheduler!r}: a {self._name} has none, leave it unset")
            return
        known = {type(own).__name__, *(kind.__name__ for kind in own.compatibles)}
        name = model.scheduler or type(own).__name__
        if name not in known:
            raise ConfigError(f"{key} is {name!r}: a {self._name} takes null or one of {', '.join(sorted(known))}")
        self._pipeline.scheduler = getattr(diffusers, name).from_config(own.config)


def _within_kernel(forward: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(forward)  # pipelines look at its signature
    def held(*arguments: Any, **settings: Any) -> Any:
        with kernel(kind):
            return forward(*arguments, **settings)

    return held
