"""Gains over the base as benchmarks report them: of one run, errors over prompts; of several, errors over runs."""

import math
from statistics import fmean, stdev
from typing import Any

Gains = dict[str, tuple[float, float]]


def gains_of(aspects: dict[str, Any]) -> Gains:
    """{aspect: (gain, its error over prompts)}, and "mean" over the aspects; `aspects` as in results.json."""
    gains = {name: (found["paired_gain"]["mean"], found["paired_gain"]["se"]) for name, found in aspects.items()}
    means, errors = zip(*gains.values(), strict=True)
    # The aspects share images: the error of their mean is at most the mean of their errors.
    return {**gains, "mean": (fmean(means), fmean(errors))}


def gains_over(runs: list[dict[str, Any]]) -> Gains:
    """The same over runs, with the errors that their spread gives; nothing for one run."""
    if len(runs) < 2:
        return {}
    found = [gains_of(aspects) for aspects in runs]
    by_name = {name: [gains[name][0] for gains in found] for name in found[0]}
    return {name: (fmean(values), stdev(values) / math.sqrt(len(values))) for name, values in by_name.items()}
