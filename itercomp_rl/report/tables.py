"""The tables that a run prints."""

from typing import Any

from rich.table import Table

from itercomp_rl.evaluation.side_effects import side_effects


def score_table(aspects: dict[str, Any], judge: str = "oracle", control: dict[str, Any] | None = None) -> Table:
    """Models down, aspects across: mean +- standard error (images); the last lines are paired gains.

    Args: control: what results.json says of the run's control, in which no preference was learned.
    """
    scale = "oracle score in 0..1" if judge == "oracle" else f"{judge} score"
    table = Table(title=f"held-out prompts, {scale}, mean ± standard error clustered by prompt (images)")
    table.add_column("model")
    for aspect in aspects:
        table.add_column(aspect, justify="right")
    table.add_column("mean", justify="right")
    first = next(iter(aspects.values()))
    _row(table, "base policy", [tree["base"] for tree in aspects.values()])
    for name in first["gallery"]:
        _row(table, f"gallery: {name}", [tree["gallery"][name] for tree in aspects.values()])
    table.add_section()
    for round_ in range(len(first["rounds"])):
        _row(table, f"policy, round {round_ + 1}", [tree["rounds"][round_] for tree in aspects.values()])
    if first["paired_gain"]:
        table.add_section()
        _row(table, "paired gain over the base", [tree["paired_gain"] for tree in aspects.values()], sign="+")
        for name, cells in control_rows(control, list(aspects)):
            _row(table, name, cells, sign="+")
    return table


def control_rows(control: dict[str, Any] | None, aspects: list[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(name, one cell per aspect): what the control gained, and what the preferences add to that; none without it."""
    if not control:
        return []
    names = {"paired_gain": "control: no preferences learned", "preferences_add": "learned preferences add"}
    return [(name, [control[key][aspect] for aspect in aspects]) for key, name in names.items()]


def side_effects_table(results: dict[str, Any]) -> Table | None:
    """Other metrics, and what the gain cost: models down; mean +- standard error. None if nothing was measured."""
    columns, rows = side_effects(results)
    if not columns:
        return None
    table = Table(
        title="beside the scores: metrics, forgetting, artefacts, combinations seen in training (mean ± standard error)"
    )
    table.add_column("model")
    for column in columns:
        table.add_column(column.replace(": ", ":\n"), justify="right")
    for name, cells in rows:
        table.add_row(name, *("" if cell is None else f"{cell['mean']:.4f}±{cell['se']:.4f}" for cell in cells))
    return table


def _row(table: Table, name: str, cells: list[dict[str, Any]], sign: str = "") -> None:
    mean = sum(cell["mean"] for cell in cells) / len(cells)
    table.add_row(
        name, *(f"{cell['mean']:{sign}.3f} ± {cell['se']:.3f} ({cell['n']})" for cell in cells), f"{mean:{sign}.3f}"
    )
