"""A bar for people at a terminal; in a file or a job's output the log lines of metrics.py say how far a run is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Shown = Callable[[int, str], None]  # steps done in all, metrics in words


@cache
def terminal() -> Console | None:
    """The terminal that bars and log lines share, None where stderr is none."""
    return Console(stderr=True) if sys.stderr.isatty() else None


@contextmanager
def bar(name: str, total: int, console: Console) -> Iterator[Shown]:
    """A bar that lives as long as a phase and then makes room for the phase's log line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=total, shown="")
        yield lambda done, shown: progress.update(task, completed=done, shown=shown)
