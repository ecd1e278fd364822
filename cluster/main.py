"""The command line: `itercomp`, or `python -m cluster.main`. Heavy imports wait until a command needs them."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from cluster.status_cli import status as status_command
from cluster.store_cli import store as store_commands
from itercomp_rl.errors import IterCompError
from itercomp_rl.run_logs import TextLines

EXIT_CODES = {
    "ConfigError": 2,
    "CheckpointError": 3,
    "StoreError": 4,
    "DivergedError": 5,
    "WorkerDiedError": 6,
    "StuckError": 7,
}


class Reasons(click.Group):
    """Turns the project's own errors into one last line and an exit code of their own."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IterCompError as error:
            names = [cls.__name__ for cls in type(error).__mro__]
            code = next((EXIT_CODES[name] for name in names if name in EXIT_CODES), 1)
            click.echo(f"error: {error}", err=True)
            sys.exit(code)


@click.group(cls=Reasons, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> None:
    """IterComp: align a text-to-image model with a gallery of models, in a closed loop."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("itercomp_rl", "learners", "actors", "cluster"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


main.add_command(store_commands)
main.add_command(status_command)


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue the run that its folder holds.")
@click.option(
    "--address", help="A Ray cluster to use; without it (and outside a Ray job) a private local one is started."
)
def run(config: str, overrides: tuple[str, ...], resume: bool, address: str | None) -> None:
    """Run CONFIG (a file, or the name of a shipped one) with OVERRIDES like policy.updates=10."""
    from itercomp_rl.config import load_config

    settings = load_config(config, list(overrides))
    from cluster.launch import run as launch

    folder = launch(settings, resume=resume, address=address)
    click.echo((folder / "results.txt").read_text())
    click.echo(f"results: {folder / 'results.json'}")
    click.echo(f"images:  {folder / 'images.png'}")


@main.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", show_default=True)
@click.option(
    "--prompts", "file", type=click.Path(path_type=Path), help="Your own prompts, one a line, in place of a split."
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
def evaluate(run_folder: str, split: str, file: Path | None, seed: int, num: int, as_json: bool) -> None:
    """Measure every version of RUN anew, on a split or on your own prompts."""
    from cluster.again import evaluate_run
    from cluster.launch import load_run

    config, store = load_run(run_folder)
    aspects = evaluate_run(config, store, split=split, file=file, seed=seed, num=num)
    if as_json:
        click.echo(json.dumps({"aspects": aspects}, indent=2))
        return
    from rich.console import Console

    from itercomp_rl.report import score_table

    Console(width=120).print(score_table(aspects))


@main.command()
@click.argument("prompt")
@click.option("--run", "run_folder", required=True, help="Run folder or name.")
@click.option(
    "--round", "round_", type=int, help="Version after this round (1 = the first); default: the last one published."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--num", type=click.IntRange(min=1), default=4, show_default=True, help="Images.")
@click.option("--compare", type=click.Choice(["base"]), help="Draw the base beside it, from the same seeds.")
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write; default: a name made from the prompt.")
def generate(
    prompt: str, run_folder: str, round_: int | None, seed: int, num: int, compare: str | None, out: Path | None
) -> None:
    """Draw PROMPT with a version of a run."""
    from cluster.again import generate_image
    from cluster.launch import load_run

    config, store = load_run(run_folder)
    path = generate_image(
        config, store, prompt, round_=round_, seeds=list(range(seed, seed + num)), compare=bool(compare), out=out
    )
    click.echo(path)


@main.group()
def shapes() -> None:
    """The embedded world."""


@shapes.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
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
    """Train every tiny model that the project ships, from nothing (about an hour on two cores)."""
    logging.getLogger("itercomp_rl").setLevel(logging.INFO)
    import torch

    from itercomp_rl.shapes.pretrain import Recipe
    from itercomp_rl.shapes.pretrain import pretrain as train

    torch.set_num_threads(threads)
    train(out, Recipe(seed=seed).scaled(scale))
    click.echo(out)


if __name__ == "__main__":
    main()
