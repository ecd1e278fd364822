"""What an engine promises: it turns gradients into weights. Plain torch (plain.py) and DeepSpeed (zero.py) keep it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from itercomp_rl.errors import CheckpointError
from learners.engine.spec import Group


class Engine(Protocol):
    """One rank's share of training one module. With a group, every rank makes the same calls in the same order."""

    @property
    def module(self) -> nn.Module:
        """Call this, not the module handed in, for forward passes; it has the same signature and attributes."""
        ...

    @property
    def updates(self) -> int:
        """Updates made since the first one or since `restart_count`, those before a checkpoint included."""
        ...

    def restart_count(self) -> None:
        """Count updates from 0 again: a new round goes on with the weights, moments and average of the one before."""
        ...

    def check(self, folder: Path) -> None:
        """Raises: CheckpointError if `load` would refuse the checkpoint for being incomplete or of another training."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar loss; the caller divides by the number of micro-batches of an update.

        ZeRO 2 and 3 reduce here: all ranks call it equally often, for losses that use the same parameters.
        """
        ...

    def step(self) -> dict[str, float]:
        """One update from the mean over ranks of the added gradients: clip, AdamW, moving average.

        Returns: `grad_norm` before clipping, and the `lr` used. A parameter no loss reached has gradient 0.
        Raises: DivergedError if the norm is not finite; weights and counters stay, the gradients are dropped.
        """
        ...

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        """A copy of this rank's share of the trained weights on the CPU, in the module's dtype; see `share_of`.

        With `ema`, the moving average where one is kept, else the weights themselves. Not inside `ema_swapped`.
        """
        ...

    def masters(self, ema: bool = True) -> dict[str, Tensor]:
        """As `weights`, in float32 as Adam has them: what another training can go on from without a rounding."""
        ...

    def refine(self, values: Iterable[tuple[str, Tensor]]) -> None:
        """Start masters and moving average at float32 values of which the module's weights are the roundings.

        For every trained parameter, before the first update; nothing happens in fp32, where the weights are the
        masters. Raises: CheckpointError if a value is missing, or its rounding is not the weight that the module has.
        """
        ...

    def ema_swapped(self) -> AbstractContextManager[None]:
        """While open, the module holds the moving average (its weights, where none is kept): to score, not to train."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what the ranks learnt to a folder that all of them see; complete once engine.json is there.

        Frozen parameters and buffers are left out: they come with the module.
        Raises: CheckpointError if the folder already holds a checkpoint.
        """
        ...

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` stood; the same module, kind, ZeRO stage, dtype and, under ZeRO 1-3, world size.

        Raises: CheckpointError if any of these differs, or if a part is missing or of another update.
        """
        ...

    def close(self) -> None:
        """Lets go of hooks and gradients. The process group stays: a process joins one group in its life."""
        ...


def share_of(sizes: Mapping[str, int], group: Group | None) -> frozenset[str]:
    """The parameters that a rank writes: every one is some rank's, and ranks have about as much of their sizes each."""
    loads = [0] * (group.world_size if group else 1)
    shares: list[list[str]] = [[] for _ in loads]
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        rank = loads.index(min(loads))
        loads[rank] += size
        shares[rank].append(name)
    return frozenset(shares[group.rank if group else 0])


def refining(params: Mapping[str, nn.Parameter], values: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The values of trained parameters in float32 on their device, each name once; others are passed over.

    Raises: CheckpointError at the end if a parameter got none.
    """
    left = dict(params)
    for name, value in values:
        if (p := left.pop(name, None)) is not None:
            yield name, value.to(p.device, torch.float32)
    if left:
        raise CheckpointError(f"{len(left)} trained weights have no float32 value to start from, {min(left)} the first")


def check_rounding(name: str, value: Tensor, weight: Tensor) -> None:
    """Raises: CheckpointError unless the weight is the value's rounding to its own dtype."""
    if value.shape != weight.shape or not torch.equal(value.to(weight.dtype), weight):
        raise CheckpointError(f"the weights of {name} are no rounding of those it should start from: other weights")
