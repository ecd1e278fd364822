"""`itercomp run`, and what a run is asked for afterwards: `report` and `generate`."""

from pathlib import Path

import click

from cluster.cli.completion import complete_config, complete_run
from cluster.cli.output import OutputFile
from cluster.ray_job import keep_to_loopback


@click.command(short_help="Run a config: gallery, rankings, rewards, policy.")
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
@click.option(
    "--control",
    is_flag=True,
    help="Then run it again without learning any preference (NAME-control), and show what the preferences add.",
)
def run(
    config: str, overrides: tuple[str, ...], resume: bool, address: str | None, reuse: str | None, control: bool
) -> None:
    """Run CONFIG (a file, or the name of a shipped one) with OVERRIDES like policy.updates=10."""
    from itercomp_rl.config.load import load_config

    settings = load_config(config, list(overrides))
    keep_to_loopback(address)
    from cluster.launch import run as launch

    folder = launch(settings, resume=resume, address=address, reuse=reuse)
    if control:
        from cluster.control import run_control

        run_control(folder, address=address)
    click.echo((folder / "results.txt").read_text(encoding="utf-8"))
    click.echo(f"results: {folder / 'results.json'}")
    click.echo(f"images:  {folder / 'images.png'}")
    click.echo(f"report:  {folder / 'report.html'}")


@click.command(short_help="Write a run's report as one HTML file.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--out", type=OutputFile(), help="HTML file to write; default: report.html in the run.")
def report(run_folder: str, out: Path | None) -> None:
    """Write the report of RUN, finished or not: one HTML file that needs no network."""
    from cluster.run_folder import load_run
    from itercomp_rl.plan import Plan
    from itercomp_rl.report.html import write_report

    config, store = load_run(run_folder)
    click.echo(write_report(store, Plan(config=config), config.run_folder, out))


@click.command(short_help="Draw a prompt with a version of a run.")
@click.argument("prompt")
@click.option("--run", "run_folder", required=True, help="Run folder or name.", shell_complete=complete_run)
@click.option(
    "--round", "round_", type=int, help="Version after this round (1 = the first); default: the last one published."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--num", type=click.IntRange(min=1), default=4, show_default=True, help="Images.")
@click.option("--compare", type=click.Choice(["base"]), help="Draw the base beside it, from the same seeds.")
@click.option(
    "--out",
    type=OutputFile(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    help="Picture to write; default: a new PNG here, named for prompt, round and seed.",
)
def generate(
    prompt: str, run_folder: str, round_: int | None, seed: int, num: int, compare: str | None, out: Path | None
) -> None:
    """Draw PROMPT with a version of a run."""
    from cluster.finished_run import generate_image
    from cluster.run_folder import load_run

    if out is None:
        OutputFile().check(Path("picture.png"), "the working folder of --out's default")
    config, store = load_run(run_folder)
    path = generate_image(
        config, store, prompt, round_=round_, seeds=list(range(seed, seed + num)), compare=bool(compare), out=out
    )
    click.echo(path)
