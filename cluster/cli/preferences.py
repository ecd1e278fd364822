"""`itercomp preferences`: the preferences of a run, for others to learn from, and those of others, for runs."""

from pathlib import Path

import click

from cluster.cli.completion import complete_run
from cluster.cli.output import OutputFolder


@click.group(short_help="Give a run's preferences to other software, or take in those of others.")
def preferences() -> None:
    """Give a run's preferences to other software, or take in those of others."""


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


@preferences.command("import", short_help="Take in preferences that others published.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=OutputFolder(), required=True, help="New folder, for reward.preferences.")
@click.option("--aspect", "aspects", multiple=True, help="Aspect under which they count; may be repeated.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder that paths of images count from.")
@click.option(
    "--side-px",
    type=click.IntRange(min=8),
    default=512,
    show_default=True,
    help="Scale images down to this shorter side.",
)
@click.option("--max-gib", type=float, default=50.0, show_default=True, help="Refuse to write more than this.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out and count what has an image that cannot be read.")
def import_(
    sources: tuple[Path, ...],
    folder: Path,
    aspects: tuple[str, ...],
    images: Path | None,
    side_px: int,
    max_gib: float,
    skip_unreadable: bool,
) -> None:
    """Read the preferences in SOURCE, .parquet, .jsonl and .json files or folders of Parquet, into a new folder.

    Known are `itercomp preferences export`'s own form, ImageRewardDB, Pick-a-Pic, HPDv2, HPDv3, and pairs of winner and
    loser. A run learns from the folder by reward.preferences=[FOLDER].
    """
    from itercomp_rl.run.preference_files import Options
    from itercomp_rl.run.preferences_import import import_preferences

    options = Options(
        aspects=aspects,
        images=images,
        side_px=side_px,
        max_gib=max_gib,
        skips_unreadable=skip_unreadable,
    )
    found = import_preferences(sources, folder, options)
    click.echo(f"{folder}: {found.rankings} rankings of {found.images} images")
    for reason, num in found.left_out.most_common():
        click.echo(f"left out: {num} {reason}")
