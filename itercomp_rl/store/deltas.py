"""Weights published often: whole now and then (an anchor), between these only the tensors that changed since it.

Within an anchor the set of tensors only grows, so a reader that holds any version of it needs nothing but the newest
part; one that comes late reads the anchor and one part.
"""

import hashlib
import json
from collections.abc import Mapping

import torch

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store import weights
from itercomp_rl.store.chunks import digest
from itercomp_rl.store.layout import JSON, WAY_OUT
from itercomp_rl.store.store import Store
from itercomp_rl.store.weights import WeightsRef

BASE = "base_version"  # attrs key: the anchor that a part belongs to, which the collector keeps as long as the part


class DeltaPublisher:
    """Publishes the rising versions of one role; every `anchor_every`-th, and any that changed throughout, is whole."""

    def __init__(self, store: Store, role: str, anchor_every: int) -> None:
        self._store, self._role, self._every = store, role, anchor_every
        self._anchor: int | None = None
        self._digests: dict[str, str] = {}
        self._changed: set[str] = set()

    def publish(self, version: int, tensors: Mapping[str, torch.Tensor], attrs: Mapping[str, JSON]) -> WeightsRef:
        """As `weights.publish`. Raises: StoreError."""
        if self._every == 1:
            return weights.publish(self._store, self._role, version, tensors, attrs)
        digests = digests_of(tensors)
        if self._anchor is None or version - self._anchor >= self._every or digests.keys() != self._digests.keys():
            return self._whole(version, tensors, digests, attrs)
        changed = self._changed | {name for name in tensors if digests[name] != self._digests[name]}
        if len(changed) == len(tensors):
            return self._whole(version, tensors, digests, attrs)
        self._changed = changed
        part = {name: tensor for name, tensor in tensors.items() if name in changed}
        facts = {**attrs, BASE: self._anchor, "whole": _fingerprint(digests)}
        return weights.publish(self._store, self._role, version, part, facts)

    def _whole(
        self,
        version: int,
        tensors: Mapping[str, torch.Tensor],
        digests: dict[str, str],
        attrs: Mapping[str, JSON],
    ) -> WeightsRef:
        self._anchor, self._digests, self._changed = version, digests, set()
        return weights.publish(self._store, self._role, version, tensors, attrs)


def load_whole(store: Store, role: str, version: int) -> dict[str, torch.Tensor]:
    """Every tensor of a version, whether it was published whole or as a part, checked against what was published.

    Raises: MissingRecordError; CorruptRecordError if anchor and part do not make the version that the part says.
    """
    attrs = weights.load_attrs(store, role, version)
    part = weights.load(store, role, version)
    if attrs.get(BASE) is None:
        return part
    whole = {**weights.load(store, role, attrs[BASE]), **part}
    if _fingerprint(digests_of(whole)) != attrs["whole"]:
        raise CorruptRecordError(
            f"version {version} of {role} on its anchor {attrs[BASE]} does not make what was published: {WAY_OUT}"
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
