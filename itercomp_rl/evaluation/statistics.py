"""Means with standard errors that know which images belong together."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean, its standard error clustered by prompt, and the number of images."""

    mean: float
    se: float
    n: int

    def tree(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        return {"mean": round(self.mean, 5), "se": round(self.se, 5), "n": self.n}


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> Mean:
    """Mean of values whose errors are shared within a cluster: images of one prompt are not independent.

    The standard error is the usual sandwich one with G / (G - 1) for G clusters; infinite for a single cluster.
    Raises: ValueError if there is no value or lengths differ.
    """
    if len(values) != len(clusters) or not values:
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters: one cluster per value, at least one")
    mean = float(np.mean(values))
    sums: defaultdict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    num = len(sums)
    squares = sum(total**2 for total in sums.values())
    se = math.sqrt(squares * num / (num - 1)) / len(values) if num > 1 else math.inf
    return Mean(mean=mean, se=se, n=len(values))
