"""`itercomp preferences`: the preferences of a run, for others to learn from."""

from pathlib import Path

import click

from cluster.cli.completion import complete_run
from cluster.cli.output import OutputFolder


@click.group(short_help="Give a run's preferences to other software.")
def preferences() -> None:
    """Give a run's preferences to other software."""


@preferences.command("export", short_help="Write a run's rankings with their images.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--to", "folder", type=OutputFolder(), required=True, help="New folder for the data set.")
@click.option("--round", "round_", type=click.IntRange(min=1), help="Rankings of this round; default: the last one.")
@click.option("--max-gib", type=float, default=50.0, show_default=True, help="Refuse to write more than this.")
@click.option("--licence", default="other", show_default=True, help="The Hub's identifier, for the card.")
def export(run_folder: str, folder: Path, round_: int | None, max_gib: float, licence: str) -> None:
    """Write the rankings of RUN, and people's, as Parquet with the images in it and a data set card."""
    from cluster.run_folder import load_run
    from itercomp_rl.run.preferences_export import export_preferences

    config, store = load_run(run_folder)
    num = export_preferences(store, config, folder, round_=round_, max_gib=max_gib, licence=licence)
    click.echo(f"{folder}: {num} rows")
