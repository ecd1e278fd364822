"""`itercomp shapes`: work on the embedded world."""

import logging
from pathlib import Path

import click

from cluster.cli.output import OutputFolder


@click.group(short_help="Work on the embedded world.")
def shapes() -> None:
    """Work on the embedded world."""


@shapes.command(short_help="Train the shipped models from nothing.")
@click.option(
    "--out",
    type=OutputFolder(is_continued=True),
    required=True,
    help="Folder for the finished models; continued if it exists.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor on the length of every stage; small to try it out.",
)
def pretrain(out: Path, seed: int, threads: int, scale: float) -> None:
    """Train every tiny model that the project ships, from nothing (an hour and a half on two cores)."""
    logging.getLogger("itercomp_rl").setLevel(logging.INFO)
    import torch

    from itercomp_rl.pretraining.pretrain import Recipe
    from itercomp_rl.pretraining.pretrain import pretrain as train

    torch.set_num_threads(threads)
    train(out, Recipe(seed=seed).scaled(scale))
    click.echo(out)
