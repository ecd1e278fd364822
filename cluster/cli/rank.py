"""`itercomp rank`: people rank the images of a run."""

from pathlib import Path

import click

from cluster.cli.completion import complete_run
from cluster.cli.output import OutputFolder


@click.command(short_help="Let people rank a run's images in a browser.")
@click.argument("source", metavar="RUN|STORE", shell_complete=complete_run)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to serve on; any but loopback asks a token."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8765, show_default=True)
@click.option("--aspect", "aspects", multiple=True, help="Ask about these aspects only; may be repeated.")
@click.option(
    "--export",
    "folder",
    type=OutputFolder(),
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
    from cluster.rank_page import check_address, export_ranks, serve_page
    from cluster.run_folder import load_store

    if folder is None:
        check_address(host, port)
    store = load_store(source)
    if folder is None:
        serve_page(store, list(aspects), host=host, port=port)
        return
    for aspect, (num, total) in export_ranks(store, folder, origin).items():
        where = f", in {folder / aspect}.json" if num else ": no official file"
        click.echo(f"{aspect}: {num} of {total} prompts have a strict order of all models{where}")
    click.echo(f"every ranking: {folder / 'all.csv'}")
