"""Weights published often: whole now and then (an anchor), between these only the tensors that changed since it.

Within an anchor the set of tensors only grows, so a reader that holds any version of it needs nothing but the newest
part; one that comes late reads the anchor and one part.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store import weights
from itercomp_rl.store.chunks import digest
from itercomp_rl.store.layout import JSON, WAY_OUT
from itercomp_rl.store.store import Store
from itercomp_rl.store.weights import Version
from itercomp_rl.store.writers import ALONE, Writers

BASE = "base_version"  # attrs key: the anchor that a part belongs to, which the collector keeps as long as the part


class DeltaPublisher:
    """Publishes the rising versions of one role; every `anchor_every`-th, and any that changed throughout, is whole."""

    def __init__(self, store: Store, role: str, anchor_every: int, ranks: Writers = ALONE) -> None:
        self._store, self._role, self._every, self._ranks = store, role, anchor_every, ranks
        self._anchor: int | None = None
        self._digests: dict[str, str] = {}
        self._changed: set[str] = set()

    def publish(self, version: int, tensors: Mapping[str, torch.Tensor], attrs: Mapping[str, JSON]) -> Version:
        """As `weights.publish`, of this rank's share. Raises: StoreError."""
        if self._every == 1:
            return self._write(version, tensors, attrs)
        shares: list[Any] = self._ranks.exchange(digests_of(tensors))  # Any: what digests_of gave on each rank
        digests: dict[str, str] = {name: value for share in shares for name, value in share.items()}
        changed = self._changed | {name for name, value in digests.items() if value != self._digests.get(name)}
        is_due = self._anchor is None or version - self._anchor >= self._every
        if is_due or digests.keys() != self._digests.keys() or len(changed) == len(digests):
            self._anchor, self._digests, self._changed = version, digests, set()
            return self._write(version, tensors, attrs)
        self._changed = changed
        part = {name: tensor for name, tensor in tensors.items() if name in changed}
        return self._write(version, part, {**attrs, BASE: self._anchor, "whole": _fingerprint(digests)})

    def _write(self, version: int, tensors: Mapping[str, torch.Tensor], attrs: Mapping[str, JSON]) -> Version:
        return weights.publish(self._store, self._role, version, tensors, attrs, self._ranks)


def load_whole(version: Version) -> dict[str, torch.Tensor]:
    """Every tensor of a version, whether it was published whole or as a part, checked against what was published.

    Raises: MissingRecordError; CorruptRecordError if anchor and part do not make the version that the part says.
    """
    part, anchor = version.load(), version.attrs.get(BASE)
    if anchor is None:
        return part
    whole = {**weights.open_version(version.store, version.role, anchor).load(), **part}
    if _fingerprint(digests_of(whole)) != version.attrs["whole"]:
        raise CorruptRecordError(
            f"version {version.number} of {version.role} on its anchor {anchor} does not make what was published: "
            f"{WAY_OUT}"
        )
    return whole


def digests_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """What tells two values of each tensor apart, bit for bit."""
    return {
        name: digest(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    }


def _fingerprint(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
