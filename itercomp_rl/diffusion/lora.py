"""Low-rank adapters: a policy that learns a small pair of matrices beside each frozen projection, and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn

from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import CheckpointError, ConfigError

MARK = ".lora_"  # part of the name of every adapter weight, and of no other


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """What an adapter is: Lora(rank=16, alpha=16.0, targets=("to_q", "to_k", "to_v", "to_out.0")).

    Source: LoRA (arXiv 2106.09685); the product of the pair is scaled by alpha / rank.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]  # ends of module names, at a dot

    def tree(self) -> dict[str, Any]:
        """As JSON, for the attrs of published weights."""
        return asdict(self) | {"targets": list(self.targets)}

    @staticmethod
    def of(tree: Mapping[str, Any] | None) -> Lora | None:
        """Back from `tree`; None where weights were published whole."""
        if tree is None:
            return None
        return Lora(rank=tree["rank"], alpha=tree["alpha"], targets=tuple(tree["targets"]))


def add_lora(policy: Policy, lora: Lora, *, seed: int = 0) -> None:
    """Put an adapter on the policy's network; it draws as before until the adapter learns.

    Afterwards only the adapter has `requires_grad`; its weights have the network's dtype.
    Raises: ConfigError for a target that is the end of no layer's name; CheckpointError if an adapter is there already.
    """
    network: Any = policy.trainable  # Any: the adapter methods are a diffusers mixin's
    if has_lora(network):
        raise CheckpointError("the network has a LoRA adapter already: load the checkpoint anew")
    check_targets(network, lora.targets)
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        alpha: Any = lora.alpha  # Any: declared int, used as a factor
        network.add_adapter(peft.LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets)))
    for name, weight in network.named_parameters():
        if MARK in name:
            weight.data = weight.data.to(policy.dtype)


def check_targets(network: nn.Module, targets: tuple[str, ...]) -> None:
    """Raises: ConfigError naming the first target that no linear or convolution layer of the network ends in."""
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in layers):
            ends = sorted({".".join(p for p in name.split(".")[-3:] if not p.isdigit() or p == "0") for name in layers})
            near = difflib.get_close_matches(target, [*{e.split(".")[-1] for e in ends}, *ends], n=3, cutoff=0.3)
            raise ConfigError(
                f"policy.lora.targets names {target!r}, and no layer of {type(network).__name__} ends so; near: "
                f"{', '.join(near) or 'none'} (null takes the family's own)"
            )


def has_lora(network: nn.Module) -> bool:
    """Whether an adapter is on the network."""
    return any(MARK in name for name, _ in network.named_parameters())


@contextmanager
def adapter_off(network: nn.Module) -> Iterator[None]:
    """While open, a network with an adapter computes what it computes without one; the adapter learns on afterwards.

    Losses computed before may be backpropagated after, but not while it is open.
    """
    adapted: Any = network  # Any: the adapter methods are a diffusers mixin's
    adapted.disable_adapters()
    try:
        yield
    finally:
        adapted.enable_adapters()


def load_weights(policy: Policy, tensors: Mapping[str, Tensor], lora: Lora | None, *, is_part: bool = False) -> None:
    """Take over published weights: all of the network's, or an adapter's, which is put on first if it is not there.

    Args: is_part: the tensors may be some of these only; the others stay.
    Raises: CheckpointError unless the tensors are exactly the network's, or the adapter's, by name and shape.
    """
    if lora is not None and not has_lora(policy.trainable):
        add_lora(policy, lora)
    wanted = {name: p for name, p in policy.trainable.named_parameters() if lora is None or MARK in name}
    if is_part:
        wanted = {name: p for name, p in wanted.items() if name in tensors}
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"the published weights do not fit this policy: {len(odd)} names differ, {odd[0]} the first; "
            "a run keeps its policy.model and its policy.lora"
        )
    with torch.no_grad():
        for name, weight in wanted.items():
            if weight.shape != tensors[name].shape:
                raise CheckpointError(
                    f"published {name} is {list(tensors[name].shape)}, this policy's is {list(weight.shape)}"
                )
            weight.copy_(tensors[name])
