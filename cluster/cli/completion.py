"""What a shell offers while a command is typed."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem


def complete_config(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped configs by name, and YAML files."""
    from itercomp_rl.config.load import preset

    names = [path.stem for path in preset("base").parent.glob("*.yaml") if path.stem != "base"]
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs under ./runs by name, and folders."""
    names = [path.parent.name for path in Path("runs").glob("*/config.yaml")]
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]
