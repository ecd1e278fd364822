"""The report's figures of probes: the reward that each round climbed against the judge, and what it did to images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from itercomp_rl.report.plots import MARKERS, MUTED, SERIES, Plot, make_plot

Rounds = Sequence[Mapping[str, Any]]  # `probes` of results.json


def probe_plots(rounds: Rounds) -> list[Plot]:
    """Every figure for which there are numbers; none for a run without probes."""
    found = [_curves("probe-score", _scores(rounds), rounds, y="judge's score", caption=_SCORES)] if rounds else []
    if gained := _gains(rounds):
        found.insert(0, _curves("probe-gap", gained, rounds, y="gain since the round began (sd)", caption=_GAP))
    if reference := _reference(rounds):
        found.append(_curves("probe-reference", reference, rounds, y="reference reward", caption=_REFERENCE))
    if rounds:
        sides = {name: _points(rounds, lambda probe, n=name: probe[n]) for name in ("diversity", "saturation")}
        found.append(_curves("probe-images", sides, rounds, y="share", caption=_IMAGES))
    return found


_KEPT = "Dotted lines divide the rounds; a ring is the average that a round published."
_GAP = (
    "Means over aspects of how far the climbed reward and the judge rose since the round's first probe, each in "
    f"standard deviations of its scores there. {_KEPT}"
)
_SCORES = f"The judge's mean score of the moving average on validation prompts. {_KEPT}"
_REFERENCE = (
    "Mean reward of the first reward models that were good enough, which stay the same: comparable over all rounds."
)
_IMAGES = (
    "Diversity: mean absolute difference in colour between two images of one prompt, 0..1. Saturation: share of colour "
    "values that are 0 or 255."
)

Points = list[tuple[float, float]]  # updates since the run began, value


def _points(rounds: Rounds, value: Any) -> list[Points]:  # Any: a function from a probe to a number, or None
    """Of every round its points, where the value is there."""
    found, begin = [], 0
    for one in rounds:
        own = [(begin + probe["update"], value(probe)) for probe in one["probes"]]
        found.append([(update, number) for update, number in own if number is not None])
        begin += one["probes"][-1]["update"]
    return found


def _scores(rounds: Rounds) -> dict[str, list[Points]]:
    aspects = dict.fromkeys(aspect for one in rounds for probe in one["probes"] for aspect in probe["scores"])
    found = {
        _words(aspect): _points(rounds, lambda probe, a=aspect: probe["scores"].get(a, {}).get("mean"))
        for aspect in aspects
    }
    return {"mean": _points(rounds, lambda probe: probe["score"]), **found}


def _gains(rounds: Rounds) -> dict[str, list[Points]]:
    def mean(probe: Mapping[str, Any], who: str) -> float | None:
        values = [gained[who] for gained in probe["gains"].values()]
        return float(np.mean(values)) if values else None

    found = {who: _points(rounds, lambda probe, w=who: mean(probe, w)) for who in ("reward", "judge")}
    return found if any(found["reward"]) else {}


def _reference(rounds: Rounds) -> dict[str, list[Points]]:
    names = dict.fromkeys(
        name for one in rounds for probe in one["probes"] for name in probe if name.startswith("reference_")
    )
    return {
        _words(name.removeprefix("reference_")): _points(rounds, lambda probe, n=name: probe.get(n)) for name in names
    }


def _curves(name: str, series: Mapping[str, list[Points]], rounds: Rounds, *, y: str, caption: str) -> Plot:
    """One line for each round of each series, ringed where the round's average was kept."""
    ends = np.cumsum([one["probes"][-1]["update"] for one in rounds]).tolist()
    kept = {
        begin + one["kept_update"]
        for begin, one in zip([0, *ends[:-1]], rounds, strict=True)
        if one["kept_update"] is not None
    }

    def draw(axes: Axes) -> None:
        for border in ends[:-1]:
            axes.axvline(border, color=MUTED, linestyle=":", linewidth=1)
        for i, (label, parts) in enumerate(series.items()):
            colour, line = SERIES[i % 6], ("-", "--", "-.")[i % 3]
            axes.plot([], [], color=colour, linestyle=line, marker=MARKERS[i % 6], markersize=4, label=label)
            for points in filter(None, parts):
                updates, values = zip(*points, strict=True)
                axes.plot(updates, values, color=colour, linestyle=line, marker=MARKERS[i % 6], markersize=4)
                ringed = [(update, value) for update, value in points if update in kept]
                for update, value in ringed:
                    axes.plot(update, value, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=colour)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("updates of all rounds")
        axes.set_ylabel(y)

    said = []
    for number in range(len(rounds)):
        own = [(label, parts[number]) for label, parts in series.items() if parts[number]]
        changes = ", ".join(f"{label} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for label, points in own)
        said.append(f"round {number + 1}: {changes}")
    return make_plot(name, 2.8, caption, f"{y}. {'; '.join(said)}", draw)


def _words(aspect: str) -> str:
    return aspect.replace("non_spatial", "non-spatial").replace("_", " ")
