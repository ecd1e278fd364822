"""The command line: `itercomp`, or `python -m cluster.main`. Heavy imports wait until a command needs them."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from itercomp_rl import errors
from itercomp_rl.errors import IterCompError

EXIT_CODES = {
    "ConfigError": 2,
    "CheckpointError": 3,
    "StoreError": 4,
    "DivergedError": 5,
    "WorkerDiedError": 6,
    "StuckError": 7,
}


def exit_codes() -> str:
    """The exit codes for the help, each with the first clause of its error's docstring."""
    said = {code: str(getattr(errors, name).__doc__).partition(";")[0].rstrip(".") for name, code in EXIT_CODES.items()}
    lines = [f"  {code}  {text}" for code, text in sorted({0: "Done", 1: "Anything else", **said}.items())]
    return "\b\n" + "\n".join(
        ["Exit codes (the last line of a failure says which setting, value or place, and the way out):", *lines]
    )


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


def complete_config(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped configs by name, and YAML files."""
    from itercomp_rl.config import preset

    names = [path.stem for path in preset("base").parent.glob("*.yaml") if path.stem != "base"]
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs under ./runs by name, and folders."""
    names = [path.parent.name for path in Path("runs").glob("*/config.yaml")]
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


@click.group(cls=Reasons, epilog=exit_codes(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="itercomp-rl", message="%(package)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> None:
    """IterComp: align a text-to-image model with a gallery of models, in a closed loop."""
    handler = None
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        from itercomp_rl.progress import terminal

        handler = RichHandler(console=terminal(), show_path=False, omit_repeated_times=False, markup=False)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s" if handler else "%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[handler or logging.StreamHandler(sys.stderr)],
    )
    for name in ("itercomp_rl", "learners", "actors", "cluster"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


@main.command(short_help="Run a config: gallery, rankings, rewards, policy.")
@click.argument("config", shell_complete=complete_config)
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
    click.echo(f"report:  {folder / 'report.html'}")


@main.command(short_help="Write a run's report as one HTML file.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--out", type=click.Path(path_type=Path), help="HTML file to write; default: report.html in the run.")
def report(run_folder: str, out: Path | None) -> None:
    """Write the report of RUN, finished or not: one HTML file that needs no network."""
    from cluster.launch import load_run
    from itercomp_rl.page.write import write_report
    from itercomp_rl.plan import Plan

    config, store = load_run(run_folder)
    click.echo(write_report(store, Plan(config=config), config.run_folder, out))


@main.command(short_help="Measure every version of a run anew.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
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


@main.command(short_help="Draw a prompt with a version of a run.")
@click.argument("prompt")
@click.option("--run", "run_folder", required=True, help="Run folder or name.", shell_complete=complete_run)
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


@main.command(short_help="Say what this machine has and lacks.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs live."
)
@click.option("--store", "store_url", help="Try this store's URL (one small object is written and deleted).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(run_dir: Path, store_url: str | None, as_json: bool) -> None:
    """Say what this machine has and lacks for a run, and how to get it; exit code 1 if a run cannot work."""
    from dataclasses import asdict

    from cluster.doctor import examine

    findings = list(examine(run_dir.absolute(), store_url))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table("part", "state", "found", "what to do", show_lines=True)
        styles = {"ok": "green", "look": "yellow", "missing": "bold red"}
        for finding in findings:
            state = f"[{styles[finding.state]}]{finding.state}[/]"
            table.add_row(finding.part, state, escape(finding.found), escape(finding.way_out))
        console = Console()
        (console if console.is_terminal else Console(width=140)).print(table)
    if any(finding.state == "missing" for finding in findings):
        sys.exit(1)


@main.command(short_help="Print a script for shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: `itercomp completion bash >> ~/.bashrc`."""
    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(main, {}, "itercomp", "_ITERCOMP_COMPLETE").source())


@main.group(short_help="Work on the embedded world.")
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
