"""The command line: `itercomp`, or `python -m cluster.main`. Heavy imports wait until a command needs them."""

import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from cluster.cli.completion import complete_config, complete_run
from cluster.cli.evaluate import evaluate as evaluate_commands
from cluster.cli.plan import plan as plan_command
from cluster.cli.status import status as status_command
from cluster.cli.store import store as store_commands
from cluster.ray_job import keep_to_loopback
from itercomp_rl import errors
from itercomp_rl.errors import IterCompError
from itercomp_rl.observability.logs import StrikeOut, TextLines, secrets, struck_out

EXIT_CODES = {
    "ConfigError": 2,
    "CheckpointError": 3,
    "StoreError": 4,
    "DivergedError": 5,
    "WorkerDiedError": 6,
    "StuckError": 7,
    "StoppedError": 8,
}
# What a user's own machine can refuse, outside the store: run folders, reports, pictures, a port.
_FREE = "free some space there, or write elsewhere (run.dir, --out); a run goes on with --resume"
WAYS_OUT = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EACCES: "let this user read and write there, or write elsewhere (run.dir, --out)",
    errno.EADDRINUSE: "another program has this port: give another (--port)",
    errno.EROFS: "mount it for writing, or write elsewhere (run.dir, --out)",
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
            click.echo(f"error: {struck_out(str(error), secrets(os.environ))}", err=True)
            sys.exit(code)
        except OSError as error:
            if error.errno not in WAYS_OUT:
                raise
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{error.strerror}: {WAYS_OUT[error.errno]}", err=True)
            sys.exit(1)


@click.group(cls=Reasons, epilog=exit_codes(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="itercomp-rl", message="%(package)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> None:
    """IterComp: align a text-to-image model with a gallery of models, in a closed loop."""
    # The libraries' remarks on what is not installed, and bars in a file, say nothing about a run.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    handler = None
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        from itercomp_rl.observability.progress_bar import terminal

        handler = RichHandler(console=terminal(), show_path=False, omit_repeated_times=False, markup=False)
        handler.addFilter(StrikeOut())
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TextLines())
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
    else:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    for name in ("itercomp_rl", "learners", "actors", "cluster"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


main.add_command(store_commands)
main.add_command(status_command)
main.add_command(plan_command)
main.add_command(evaluate_commands)


@main.command(short_help="Run a config: gallery, rankings, rewards, policy.")
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue the run that its folder holds.")
@click.option(
    "--address", help="A Ray cluster to use; without it (and outside a Ray job) a private local one is started."
)
@click.option(
    "--reuse",
    metavar="RUN",
    shell_complete=complete_run,
    help="Copy what RUN drew, ranked and learned just as this run would, up to the first policy.",
)
def run(config: str, overrides: tuple[str, ...], resume: bool, address: str | None, reuse: str | None) -> None:
    """Run CONFIG (a file, or the name of a shipped one) with OVERRIDES like policy.updates=10."""
    from itercomp_rl.config.load import load_config

    settings = load_config(config, list(overrides))
    keep_to_loopback(address)
    from cluster.launch import run as launch

    folder = launch(settings, resume=resume, address=address, reuse=reuse)
    click.echo((folder / "results.txt").read_text())
    click.echo(f"results: {folder / 'results.json'}")
    click.echo(f"images:  {folder / 'images.png'}")
    click.echo(f"report:  {folder / 'report.html'}")


@main.command(short_help="Write a run's report as one HTML file.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--out", type=click.Path(path_type=Path), help="HTML file to write; default: report.html in the run.")
def report(run_folder: str, out: Path | None) -> None:
    """Write the report of RUN, finished or not: one HTML file that needs no network."""
    from cluster.run_folder import load_run
    from itercomp_rl.plan import Plan
    from itercomp_rl.report.html import write_report

    config, store = load_run(run_folder)
    click.echo(write_report(store, Plan(config=config), config.run_folder, out))


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
    from cluster.finished_run import generate_image
    from cluster.run_folder import load_run

    config, store = load_run(run_folder)
    path = generate_image(
        config, store, prompt, round_=round_, seeds=list(range(seed, seed + num)), compare=bool(compare), out=out
    )
    click.echo(path)


@main.command(short_help="Write a version of RUN for diffusers and transformers.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="New folder for the models.")
@click.option("--round", "round_", type=int, help="Version after this round (1 = the first); default: the last one.")
@click.option("--licence", default="other", show_default=True, help="The Hub's identifier, such as openrail++.")
@click.option("--licence-name", help="Name of a licence that has no identifier; default: as the base model.")
@click.option("--licence-link", help="Where its text is.")
def export(
    run_folder: str,
    folder: Path,
    round_: int | None,
    licence: str,
    licence_name: str | None,
    licence_link: str | None,
) -> None:
    """Write a version of RUN as folders that diffusers and transformers load, with a model card."""
    from cluster.export import export_run
    from cluster.run_folder import load_run
    from itercomp_rl.report.model_card import Licence

    config, store = load_run(run_folder)
    name = "as-the-base-model" if licence == "other" and licence_name is None else licence_name
    click.echo(
        export_run(config, store, folder, round_=round_, licence=Licence(id=licence, name=name, link=licence_link))
    )


@main.command(short_help="Upload an export to the Hugging Face Hub.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
def push(folder: Path, repo_id: str, private: bool) -> None:
    """Upload FOLDER, written by `export`, to REPO_ID (owner/name) on the Hugging Face Hub."""
    from cluster.export import push as upload

    click.echo(upload(folder, repo_id, private=private))


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


@main.command(short_help="Let people rank a run's images in a browser.")
@click.argument("source", metavar="RUN|STORE", shell_complete=complete_run)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to serve on; any but loopback asks a token."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8765, show_default=True)
@click.option("--aspect", "aspects", multiple=True, help="Ask about these aspects only; may be repeated.")
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path),
    help="Write the rankings to this new folder (official JSON, CSV, images) in place of serving.",
)
@click.option(
    "--origin",
    type=click.Choice(["people", "judge"]),
    default="people",
    show_default=True,
    help="Whose rankings to export: people's, or the first round's by its judge.",
)
def rank(source: str, host: str, port: int, aspects: tuple[str, ...], folder: Path | None, origin: str) -> None:
    """Let people rank the images of RUN (or a store's URL) in a browser; their rankings go into the store."""
    from cluster.rank import export_ranks, open_source, serve_page

    store = open_source(source)
    if folder is None:
        serve_page(store, list(aspects), host=host, port=port)
        return
    for aspect, (num, total) in export_ranks(store, folder, origin).items():
        where = f", in {folder / aspect}.json" if num else ": no official file"
        click.echo(f"{aspect}: {num} of {total} prompts have a strict order of all models{where}")
    click.echo(f"every ranking: {folder / 'all.csv'}")


@main.group(short_help="Work on the embedded world.")
def shapes() -> None:
    """Work on the embedded world."""


@shapes.command(short_help="Train the shipped models from nothing.")
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
    """Train every tiny model that the project ships, from nothing (an hour and a half on two cores)."""
    logging.getLogger("itercomp_rl").setLevel(logging.INFO)
    import torch

    from itercomp_rl.pretraining.pretrain import Recipe
    from itercomp_rl.pretraining.pretrain import pretrain as train

    torch.set_num_threads(threads)
    train(out, Recipe(seed=seed).scaled(scale))
    click.echo(out)


if __name__ == "__main__":
    main()
