"""The report's figures: matplotlib draws SVG whose colours are the page's own, so one figure serves light and dark."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from itercomp_rl.report.facts import Phase, Series

INK, MUTED, GRID, PAPER = "#000001", "#000002", "#000003", "#000004"  # stand-ins, replaced by the page's CSS variables
SERIES = [f"#0000c{i}" for i in range(1, 7)]
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"} | {
    stand_in: f"var(--c{i})" for i, stand_in in enumerate(SERIES, 1)
}
MARKERS = "osD^vP"  # colour is never the only difference
_STYLE: dict[Any, Any] = {  # Any: matplotlib types its keys as literals
    "svg.fonttype": "none",
    "svg.hashsalt": "itercomp",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 10,
    "lines.linewidth": 1.4,
}
_WIDTH_IN = 4.4  # about the width of a phone: text stays readable where a figure fills it
POINTS = 60  # a curve is thinned to at most this many, each the mean of its neighbours: trends, not noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure for the page: inline SVG, and what it shows in words."""

    svg: str
    caption: str


def make_plot(name: str, height_in: float, caption: str, alt: str, draw: Any) -> Plot:  # Any: a function of Axes
    """The figure that `draw` makes on its axes, as SVG in the page's colours. Args: alt: what it shows, in words."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside upper left", ncols=2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Plot(svg=_inline(buffer.getvalue(), name, alt), caption=caption)


def _inline(svg: str, name: str, alt: str) -> str:
    """The <svg> element alone, in the page's colours and font, with ids no other figure has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt, quote=True)}"', 1)


def scores(aspect: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Plot:
    """One aspect's score of every model with its standard error; rows are (name, {mean, se, n}), the base first."""
    base = rows[0][1]["mean"]

    def draw(axes: Axes) -> None:
        axes.axvline(base, color=MUTED, linestyle="--", linewidth=1)
        for place, (name, cell) in enumerate(rows):
            kind = 0 if place == 0 else 2 if name.startswith("round") else 1
            axes.errorbar(
                cell["mean"], place, xerr=_finite(cell["se"]), fmt=MARKERS[kind], color=SERIES[kind], capsize=3
            )
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("score")
        axes.set_title(_words(aspect), loc="left")

    alt = f"{_words(aspect)} scores. " + "; ".join(f"{name} {_cell(cell)}" for name, cell in rows)
    caption = "Mean ± standard error, clustered by prompt. The dashed line is the base."
    return make_plot(f"scores-{aspect}", 0.7 + 0.24 * len(rows), caption, alt, draw)


def gains(by_aspect: Mapping[str, Sequence[Mapping[str, Any]]]) -> Plot:
    """Paired gain over the base after each round, per aspect."""

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=MUTED, linestyle="--", linewidth=1)
        for i, (aspect, cells) in enumerate(by_aspect.items()):
            rounds = np.arange(1, len(cells) + 1) + 0.04 * (i - 1)
            axes.errorbar(
                rounds,
                [cell["mean"] for cell in cells],
                yerr=[_finite(cell["se"]) for cell in cells],
                marker=MARKERS[i % 6],
                color=SERIES[i % 6],
                capsize=3,
                label=_words(aspect),
            )
        axes.set_xticks(range(1, 1 + max(len(cells) for cells in by_aspect.values())))
        axes.set_xlabel("round")
        axes.set_ylabel("gain over the base")

    alt = "Gain over the base per round. " + "; ".join(
        f"{_words(aspect)}: {', '.join(_cell(cell, '+') for cell in cells)}" for aspect, cells in by_aspect.items()
    )
    return make_plot("gains", 2.8, "Same prompts and seeds as the base, mean difference ± standard error.", alt, draw)


def curves(
    name: str,
    series: Mapping[str, Series],
    *,
    y: str,
    caption: str,
    x: str = "update",
    level: tuple[str, float] | None = None,
    whole: bool = False,
) -> Plot:
    """Some metrics over their steps, thinned to means of neighbours; dotted lines divide the rounds.

    whole: the values are counts, shown from 0. level: a line to compare with, and its name.
    """
    first = next(iter(series.values()))
    borders = [i for i in range(1, len(first.rounds)) if first.rounds[i] != first.rounds[i - 1]]

    def draw(axes: Axes) -> None:
        for border in borders:
            axes.axvline(border + 0.5, color=MUTED, linestyle=":", linewidth=1)
        for i, (label, one) in enumerate(series.items()):
            steps, values = _thinned(one.values)
            few = len(values) <= 30
            axes.plot(
                steps + 1,
                values,
                color=SERIES[i % 6],
                linestyle=("-", "--", "-.")[i % 3],
                marker=MARKERS[i % 6] if few else None,
                markersize=4,
                label=label if len(series) > 1 or level else None,
            )
        if whole:
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_ylim(-0.2, max(1.0, *axes.get_ylim()))
        if level:
            axes.axhline(level[1], color=MUTED, linestyle="--", linewidth=1, label=level[0])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(x)
        axes.set_ylabel(y)

    ends = "; ".join(f"{label} from {one.values[0]:.3g} to {one.values[-1]:.3g}" for label, one in series.items())
    return make_plot(name, 2.6, caption, f"{y}. {ends}", draw)


def accuracies(by_aspect: Mapping[str, Sequence[tuple[int, float]]], least: float) -> Plot:
    """Held-out pair accuracy of each reward model by round; chance is one half."""

    def draw(axes: Axes) -> None:
        axes.axhline(0.5, color=MUTED, linestyle=":", linewidth=1)
        axes.axhline(least, color=MUTED, linestyle="--", linewidth=1, label=f"reward.min_accuracy {least:g}")
        for i, (aspect, points) in enumerate(by_aspect.items()):
            rounds, values = [r + 1 for r, _ in points], [value for _, value in points]
            axes.plot(rounds, values, marker=MARKERS[i % 6], color=SERIES[i % 6], label=_words(aspect))
        axes.set_xticks(range(1, 2 + max(r for points in by_aspect.values() for r, _ in points)))
        axes.set_ylim(min(0.45, *(value for points in by_aspect.values() for _, value in points)), 1.0)
        axes.set_xlabel("round")
        axes.set_ylabel("share of pairs in order")

    alt = "Held-out pair accuracy by round. " + "; ".join(
        f"{_words(aspect)}: {', '.join(f'{value:.2f}' for _, value in points)}" for aspect, points in by_aspect.items()
    )
    caption = "Pairs of prompts that the reward models never learned from. Dotted: chance."
    return make_plot("accuracy", 2.8, caption, alt, draw)


def timeline(phases: Sequence[Phase]) -> Plot:
    """When each phase ran."""
    names = list(dict.fromkeys(phase.name for phase in phases))

    def draw(axes: Axes) -> None:
        for phase in phases:
            axes.barh(
                names.index(phase.name), phase.seconds, left=phase.start_s, height=0.6, color=SERIES[phase.round % 6]
            )
            if phase.seconds > 0.04 * (phases[-1].start_s + phases[-1].seconds):
                middle = phase.start_s + phase.seconds / 2
                number = str(phase.round + 1)
                axes.text(middle, names.index(phase.name), number, color=PAPER, ha="center", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set_xlabel("seconds since the first phase")

    totals = {name: sum(phase.seconds for phase in phases if phase.name == name) for name in names}
    alt = "Phases over time. " + "; ".join(f"{name} {seconds:.0f} s in all" for name, seconds in totals.items())
    return make_plot("timeline", 0.8 + 0.35 * len(names), "Bars are numbered and coloured by round.", alt, draw)


def shares_over_time(series: Mapping[str, Series]) -> Plot:
    """Share of the time that each role's processes had work, over the run: a strip per role, full height all busy."""
    zero = min(one.times[0] for one in series.values())
    means = {role: float(np.mean(one.values)) for role, one in series.items()}

    def draw(axes: Axes) -> None:
        for row, (role, one) in enumerate(series.items()):
            places, values = _thinned(one.values)
            times = np.interp(places, np.arange(len(one.times)), np.array(one.times) - zero)
            floor = row + 0.42
            axes.axhline(floor, color=MUTED, linewidth=0.6)
            axes.fill_between(times, floor, floor - 0.84 * values, color=SERIES[0], linewidth=0)
            axes.text(1.02, row, f"{means[role]:.0%}", transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(series)), [role.replace("_", " ") for role in series])
        axes.set_ylim(len(series) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds since the first measurement")

    alt = "Utilisation over time, means: " + "; ".join(f"{role} {mean:.0%}" for role, mean in means.items())
    caption = "Share of the time that a role's processes had work; a full strip is all of them. At the right its mean."
    return make_plot("utilisation", 0.8 + 0.42 * len(series), caption, alt, draw)


def _thinned(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    bins = np.array_split(np.asarray(values, float), min(len(values), POINTS))
    middles = np.cumsum([len(part) for part in bins]) - np.array([len(part) for part in bins]) / 2 - 0.5
    return middles, np.array([part.mean() for part in bins])


def _finite(se: float) -> float:
    return se if np.isfinite(se) else 0.0  # one prompt alone has no known error; the table says so


def _cell(cell: Mapping[str, Any], sign: str = "") -> str:
    return f"{cell['mean']:{sign}.3f} ± {cell['se']:.3f}"


def _words(aspect: str) -> str:
    return aspect.replace("non_spatial", "non-spatial").replace("_", " ")
