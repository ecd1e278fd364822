"""Which attention kernel a network runs: the one place that chooses, and says why a choice cannot be had."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from itercomp_rl.errors import ConfigError

KINDS = ("sdpa", "flash")  # sdpa: torch takes the fastest that can serve; flash: FlashAttention or an error


def check_attention(key: str, kind: str, dtype: torch.dtype, device: torch.device) -> None:
    """Raises: ConfigError if `kind`, the value of setting `key`, is unknown or cannot run; the reason is in it."""
    if kind not in KINDS:
        raise ConfigError(f"{key} is {kind!r}: must be one of {', '.join(KINDS)}")
    if kind == "sdpa":
        return
    why = ""
    if device.type != "cuda":
        why = f"FlashAttention needs an NVIDIA GPU and this process runs on {device.type}"
    elif dtype not in (torch.bfloat16, torch.float16):
        why = f"FlashAttention computes in bf16 or fp16 and these weights are {str(dtype).removeprefix('torch.')}"
    elif not torch.backends.cuda.is_flash_attention_available():
        why = f"torch {torch.__version__} is built without FlashAttention"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        why = f"FlashAttention needs compute capability 8.0 and {torch.cuda.get_device_name(device)} has less"
    if why:
        raise ConfigError(f"{key} is 'flash': {why}; set it to sdpa, which takes the fastest kernel that can serve")


def set_attention(network: nn.Module, kind: str) -> None:
    """Let every attention layer of a diffusers network run `kind`; to be checked first.

    The choice sits in each layer, not around the forward pass, so that recomputed activations make it again.
    """
    if kind == "sdpa":
        return
    for layer in network.modules():
        if isinstance(layer, Attention | AttentionModuleMixin) and not isinstance(layer.processor, _Flash):
            layer.set_processor(_Flash(layer.processor))  # pyright: ignore[reportArgumentType] any callable will do


@contextmanager
def kernel(kind: str) -> Iterator[None]:
    """While open, torch's attention runs `kind`, or raises RuntimeError where flash cannot serve."""
    if kind == "sdpa":
        yield
        return
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield


class _Flash:
    """An attention processor of diffusers, held to FlashAttention."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        with kernel("flash"):
            return self._processor(*arguments, **settings)
