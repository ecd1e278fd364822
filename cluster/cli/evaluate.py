"""`itercomp evaluate`: the versions of a run, measured anew, or any models on T2I-CompBench.

Imports wait until a command needs them, so that --help stays quick.
"""

import json
import math
from pathlib import Path
from typing import Any

import click

from cluster.cli.completion import complete_run
from cluster.cli.output import OutputFolder
from cluster.ray_job import keep_to_loopback


class RunByDefault(click.Group):
    """`evaluate RUN ...` is `evaluate run RUN ...`: what is no subcommand is a run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def _plain(tree: Any) -> Any:  # Any: a JSON value
    """JSON has no infinity, which the standard error of a single prompt is: null there."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


@click.group(
    cls=RunByDefault,
    subcommand_metavar="RUN|COMMAND [ARGS]...",
    no_args_is_help=True,
    short_help="Measure every version of a run anew, or models on a benchmark.",
)
def evaluate() -> None:
    """Measure the versions of RUN anew (options: `evaluate run --help`), or any model on a benchmark."""


@evaluate.command("run", short_help="Measure every version of a run anew.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True)
@click.option(
    "--prompts", "file", type=click.Path(path_type=Path), help="A file of your own prompts in place of a split."
)
@click.option("--seed", type=int, default=1234, show_default=True, help="Evaluation seed.")
@click.option(
    "--n",
    "num",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images per aspect (of a split) or per prompt (of a file).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the aspects object of results.json.")
def evaluate_run(run_folder: str, split: str, file: Path | None, seed: int, num: int, as_json: bool) -> None:
    """Measure every version of RUN anew, on a split or on your own prompts."""
    from cluster.finished_run import evaluate_run as measure
    from cluster.run_folder import load_run

    config, store = load_run(run_folder)
    aspects = measure(config, store, split=split, file=file, seed=seed, num=num)
    if as_json:
        click.echo(json.dumps(_plain({"aspects": aspects}), indent=2, allow_nan=False))
        return
    from rich.console import Console

    from itercomp_rl.report.tables import score_table

    Console(width=120).print(score_table(aspects, config.evaluation.judge))


@evaluate.command("t2i-compbench", short_help="Measure models on T2I-CompBench.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    help="NAME=SOURCE, a checkpoint, RUN[@ROUND] or member:NAME of gallery.members; may be repeated.",
)
@click.option(
    "--out", type=OutputFolder(is_continued=True), required=True, help="Folder for images, scores and tables."
)
@click.option(
    "--prompts", type=click.Path(path_type=Path), help="Folder with <category>_val.txt; default: the benchmark's."
)
@click.option("--category", "categories", multiple=True, help="Only this category; may be repeated.")
@click.option("--images", type=click.IntRange(min=1), default=10, show_default=True, help="Images per prompt.")
@click.option("--limit", type=click.IntRange(min=1), help="Prompts per category; default: all.")
@click.option("--steps", type=click.IntRange(min=1), default=30, show_default=True, help="Denoising steps.")
@click.option("--guidance", type=float, default=7.5, show_default=True)
@click.option("--shard", default="0/1", show_default=True, help="I/N: only draw every N-th prompt from the I-th on.")
@click.option("--address", help="A Ray cluster to draw on; default: a local one if actors.samplers.count is above 1.")
@click.option("--clip-score", is_flag=True, help="Realism: CLIP cosine of every image.")
@click.option("--aesthetic", help="Realism: LAION's head, a file or owner/name:file.")
@click.option("--aesthetic-clip", default="openai/clip-vit-large-patch14", show_default=True)
@click.option("--image-reward", help="Realism: an ImageReward checkpoint, such as zai-org/ImageReward:ImageReward.pt.")
def t2i_compbench(
    overrides: tuple[str, ...],
    models: tuple[str, ...],
    out: Path,
    prompts: Path | None,
    categories: tuple[str, ...],
    images: int,
    limit: int | None,
    steps: int,
    guidance: float,
    shard: str,
    address: str | None,
    clip_score: bool,
    aesthetic: str | None,
    aesthetic_clip: str,
    image_reward: str | None,
) -> None:
    """T2I-CompBench of any models; KEY=VALUE sets gallery.*, actors.samplers.* and judge.t2i_compbench.* (metrics)."""
    from itercomp_rl.config.load import load_config
    from itercomp_rl.config.rules.judging import require_spacy
    from itercomp_rl.evaluation.t2i_compbench.files import parse_shard, pick
    from itercomp_rl.prompt_sets.compbench import BENCHMARK, CATEGORIES

    config = load_config("base", list(overrides))
    require_spacy()
    chosen, part = pick(categories, CATEGORIES), parse_shard(shard)
    keep_to_loopback(address)
    from cluster.t2i_compbench import Job, Realism, parse_model
    from cluster.t2i_compbench import run as measure

    table = measure(
        Job(
            models=tuple(parse_model(model) for model in models),
            out=out,
            prompts=prompts or BENCHMARK,
            categories=chosen,
            images=images,
            limit=limit,
            num_steps=steps,
            guidance=guidance,
            shard=part,
            address=address,
            realism=Realism(
                clip_score=clip_score,
                aesthetic=aesthetic,
                aesthetic_clip=aesthetic_clip,
                image_reward=image_reward,
            ),
        ),
        config,
    )
    if table is None:
        click.echo(f"shard {shard} is drawn; without --shard the rest is drawn and everything scored")
        return
    from rich.console import Console

    Console(width=max(120, Console().width)).print(table)
    click.echo(f"tables: {out / 'table.html'}, table.json, table.csv")
