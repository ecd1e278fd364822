"""`itercomp export` and `itercomp push`: a version of a run for others to load."""

from pathlib import Path

import click

from cluster.cli.completion import complete_run
from cluster.cli.output import OutputFolder


@click.command(short_help="Write a version of RUN for diffusers and transformers.")
@click.argument("run_folder", metavar="RUN", shell_complete=complete_run)
@click.option("--to", "folder", type=OutputFolder(), required=True, help="New folder for the models.")
@click.option("--round", "round_", type=int, help="Version after this round (1 = the first); default: the last one.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="What network and text encoders are saved in.",
)
@click.option("--licence", default="other", show_default=True, help="The Hub's identifier, such as openrail++.")
@click.option("--licence-name", help="Name of a licence that has no identifier; default: as the base model.")
@click.option("--licence-link", help="Where its text is.")
def export(
    run_folder: str,
    folder: Path,
    round_: int | None,
    dtype: str,
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
    chosen = Licence(id=licence, name=name, link=licence_link)
    click.echo(export_run(config, store, folder, round_=round_, licence=chosen, dtype=dtype))


@click.command(short_help="Upload an export to the Hugging Face Hub.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
def push(folder: Path, repo_id: str, private: bool) -> None:
    """Upload FOLDER, written by `export` or `preferences export`, to REPO_ID (owner/name) on the Hugging Face Hub."""
    from cluster.export import push as upload

    click.echo(upload(folder, repo_id, private=private))
