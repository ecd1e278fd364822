"""The benchmark's result: models down, categories across, with n and standard errors; as text, JSON, CSV and HTML."""

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from itercomp_rl.evaluation.statistics import Mean, clustered_mean
from itercomp_rl.files.whole import write_whole

Cells = Mapping[str, Mapping[str, Mean]]  # model -> column -> score


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One score of the table: Column(name="spatial", metric="2D geometry, X in place of UniDet", comparable=False)."""

    name: str
    metric: str
    comparable: bool  # with numbers that others published for the benchmark


def score_of(prompts: Sequence[str], scores: Sequence[float]) -> Mean:
    """Mean of a category's images; the standard error takes the images of one prompt as one cluster."""
    return clustered_mean(list(scores), list(prompts))


def to_json(mean: Mean) -> dict[str, float | int | None]:
    """Plain numbers; None where one is not finite, as the error of a single prompt is, which JSON cannot say."""
    return {name: value if math.isfinite(value) else None for name, value in mean.tree().items()}


def from_json(tree: Mapping[str, float | int | None]) -> Mean:
    """The score that to_json wrote."""
    mean, se, n = tree["mean"], tree["se"], tree["n"]
    return Mean(mean=math.nan if mean is None else mean, se=math.inf if se is None else se, n=int(n or 0))


def text_table(title: str, columns: Sequence[Column], cells: Cells) -> Table:
    """For a terminal."""
    table = Table(title=title, caption=_footnote(columns))
    table.add_column("model")
    for column in columns:
        table.add_column(_heading(column), justify="right")
    for model, scores in cells.items():
        table.add_row(model, *(_cell(scores.get(column.name)) for column in columns))
    return table


def write_tables(
    folder: Path, title: str, columns: Sequence[Column], cells: Cells, settings: Mapping[str, Any]
) -> None:
    """table.json, table.csv and table.html in `folder`."""
    tree = {
        "settings": settings,
        "columns": {c.name: {"metric": c.metric, "comparable": c.comparable} for c in columns},
        "models": {model: {name: to_json(mean) for name, mean in scores.items()} for model, scores in cells.items()},
    }
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["model", "column", "metric", "comparable", "mean", "se", "n"])
    for model, scores in cells.items():
        for c in columns:
            if c.name in scores:
                writer.writerow([model, c.name, c.metric, c.comparable, *to_json(scores[c.name]).values()])
    for name, text in {
        "table.json": json.dumps(tree, indent=1, allow_nan=False) + "\n",
        "table.csv": rows.getvalue(),
        "table.html": _html(title, columns, cells, settings),
    }.items():
        write_whole(folder / name, text)


def _heading(column: Column) -> str:
    return column.name.replace("_", "-") + ("" if column.comparable else "*")


def _cell(mean: Mean | None) -> str:
    return "" if mean is None else f"{_number(mean.mean)} ± {_number(mean.se)} ({mean.n})"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _footnote(columns: Sequence[Column]) -> str:
    metrics = "; ".join(f"{_heading(column)}: {column.metric}" for column in columns)
    return (
        f"mean ± standard error clustered by prompt (images), - where one prompt alone has none. {metrics}. * not "
        "comparable with published numbers"
    )


def _html(title: str, columns: Sequence[Column], cells: Cells, settings: Mapping[str, Any]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(_heading(column))}</th>" for column in columns)
    rows = "\n".join(
        f"<tr><th scope='row'>{html.escape(model)}</th>"
        + "".join(f"<td>{html.escape(_cell(scores.get(column.name)))}</td>" for column in columns)
        + "</tr>"
        for model, scores in cells.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 1.5rem; max-width: 90rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .4rem .8rem; border-bottom: 1px solid color-mix(in srgb, currentColor 30%, transparent); }}
th {{ text-align: left; }} td {{ text-align: right; white-space: nowrap; }}
pre {{ overflow-x: auto; }}
</style></head><body><main>
<h1>{html.escape(title)}</h1>
<div class="wide" tabindex="0" role="region" aria-label="Scores"><table>
<thead><tr><th scope="col">model</th>{head}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p>{html.escape(_footnote(columns))}.</p>
<details><summary>Settings</summary><pre>{html.escape(json.dumps(settings, indent=1))}</pre></details>
</main></body></html>
"""
