"""What a run leaves for people: results.json, a table, a picture of the same prompts before and after each round."""

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from itercomp_rl.config.load import to_tree
from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.evaluation.side_effects import side_effects, side_effects_tree
from itercomp_rl.items import ModelRef
from itercomp_rl.plan import Plan
from itercomp_rl.prompts import prompts_to_show
from itercomp_rl.store.store import Store


def write_results(store: Store, plan: Plan, folder: Path, facts: dict[str, Any], versions: dict[str, str]) -> None:
    """results.json, results.txt (the tables) and images.png in the run folder; `facts`: what the run cost."""
    tree: dict[str, Any] = {"aspects": aspects_tree(store, plan)}
    tree |= side_effects_tree(store, plan, tree["aspects"])
    tree |= {
        **{name: facts[name] for name in ("wall_s", "peak_rss_mb", "phases")},
        "config": to_tree(plan.config),
        "versions": versions,
        "seeds": {"run": plan.config.run.seed, "evaluation": plan.config.evaluation.seed},
    }
    _write(folder / "results.json", json.dumps(tree, indent=2) + "\n")
    with (folder / "results.txt").open("w", encoding="utf-8") as file:
        console = Console(width=120, file=file)
        console.print(score_table(tree["aspects"], plan.config.evaluation.judge))
        if table := side_effects_table(tree):
            console.print(table)
    write_grid(store, plan, folder / "images.png")


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def score_table(aspects: dict[str, Any], judge: str = "oracle") -> Table:
    """Models down, aspects across: mean +- standard error (images); the last line is the paired gain."""
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
    return table


def side_effects_table(results: dict[str, Any]) -> Table | None:
    """What the gain cost: models down; mean +- standard error. None if nothing was measured."""
    columns, rows = side_effects(results)
    if not columns:
        return None
    table = Table(
        title="beside the scores: forgetting, artefacts, combinations seen in training (mean ± standard error)"
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


def held_out_images(store: Store, plan: Plan, model: ModelRef, num: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """(prompt, pixels [H, W, 3]) of at most `num` held-out images to look at; prompts and seeds are every model's.

    Raises: MissingRecordError where the model has not drawn them.
    """
    places = [
        (order.id, row, prompt) for order in plan.evaluation_orders(model) for row, prompt in enumerate(order.prompts)
    ]
    chosen = [places[i] for i in prompts_to_show([prompt for _, _, prompt in places], num)]
    return [
        (prompt.text, store.get_rows("evaluations", id_, "images", slice(row, row + 1))[0])
        for id_, row, prompt in chosen
    ]


def write_grid(store: Store, plan: Plan, file: Path) -> None:
    """The same held-out prompts and seeds, a row each: base, then every round."""
    models = [plan.policy(-1), *(plan.policy(r) for r in range(plan.rounds))]
    columns = [held_out_images(store, plan, model, plan.config.evaluation.grid_prompts) for model in models]
    captions = [prompt for prompt, _ in columns[0]]
    titles = ["base", *(f"round {r + 1}" for r in range(plan.rounds))]
    rows = [[pixels for _, pixels in row] for row in zip(*columns, strict=True)]
    save_grid(file, rows, captions, titles, most=512)


def save_grid(
    file: Path, rows: list[list[np.ndarray]], captions: list[str], titles: list[str], most: int | None = None
) -> None:
    """Pictures in rows with a caption on the left and a title over each column.

    Small ones are shown 128 pixels wide, none wider than `most`; None: as large as they are.
    """
    own = max(image.shape[1] for images in rows for image in images)
    side = min(max(own, 128), most or own + 128)
    margin, top, gap = 190, 24, 6
    sheet = Image.new("RGB", (margin + len(titles) * (side + gap), top + len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for j, title in enumerate(titles):
        draw.text((margin + j * (side + gap), 4), title, fill="black", font=font)
    for i, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        y = top + i * (side + gap)
        draw.multiline_text((6, y + 6), textwrap.fill(caption, 26), fill="black", font=font)
        for j, image in enumerate(images):
            way = Image.Resampling.NEAREST if side > image.shape[1] else Image.Resampling.LANCZOS
            scaled = Image.fromarray(image).resize((side, side), way)
            sheet.paste(scaled, (margin + j * (side + gap), y))
    sheet.save(file)
