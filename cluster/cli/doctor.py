"""`itercomp doctor`: what this machine has and lacks."""

import json
import sys
from pathlib import Path

import click


@click.command(short_help="Say what this machine has and lacks.")
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
