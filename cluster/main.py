"""The command line: `itercomp`, or `python -m cluster.main`. Heavy imports wait until a command needs them."""

import errno
import logging
import os
import sys
from io import TextIOWrapper
from typing import Any

import click
from click.shell_completion import get_completion_class

from cluster.cli.doctor import doctor
from cluster.cli.evaluate import evaluate
from cluster.cli.export import export, push
from cluster.cli.judge import judge
from cluster.cli.plan import plan
from cluster.cli.preferences import preferences
from cluster.cli.rank import rank
from cluster.cli.run import generate, report, run
from cluster.cli.shapes import shapes
from cluster.cli.status import status
from cluster.cli.store import store
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
_OTHER = "give another path (run.dir, --out, --to)"
WAYS_OUT = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EACCES: "let this user read and write there, or write elsewhere (run.dir, --out)",
    errno.EPERM: "let this user read and write there, or write elsewhere (run.dir, --out)",
    errno.EROFS: "mount it for writing, or write elsewhere (run.dir, --out)",
    errno.ENOENT: f"make it first, or {_OTHER}",
    errno.ENOTDIR: f"a file is where a folder is needed: {_OTHER}",
    errno.EEXIST: f"nothing is written over: {_OTHER}",
    errno.ENOTEMPTY: f"nothing is written over: {_OTHER}",
    errno.EISDIR: f"a folder is where a file is needed: {_OTHER}",
    errno.ENAMETOOLONG: f"{_OTHER}, with a shorter name",
    errno.ELOOP: f"its links go round in a circle: {_OTHER}",
    errno.EADDRINUSE: "another program has this port: give another (--port)",
    errno.EADDRNOTAVAIL: "this machine does not have this address: give another (--host)",
}


def way_out(error: OSError) -> str | None:
    """What to do about an error of the system, which depends on whose path it names; None if that is not known."""
    path = str(error.filename or "")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
        if path.startswith(f"{home.rstrip('/')}/."):  # caches and the like, which libraries keep there
            return "set HOME to a folder that this user may write: a library keeps its files there"
        if "TMPDIR" in os.environ and path.startswith(os.environ["TMPDIR"]):
            return "set TMPDIR to a folder that this user may write"
    return WAYS_OUT.get(error.errno or 0)


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
            todo = way_out(error)
            if todo is None:
                raise
            logging.getLogger(__name__).debug("where it came from", exc_info=True)
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{error.strerror}: {todo}", err=True)
            sys.exit(1)


@click.group(cls=Reasons, epilog=exit_codes(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="itercomp-rl", message="%(package)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def main(verbose: bool) -> None:
    """IterComp: align a text-to-image model with a gallery of models, in a closed loop."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal of one byte per character lacks the lines of a table: no reason for a finished run to fail.
        sys.stdout.reconfigure(errors="replace")
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


COMMANDS = [run, status, report, generate, evaluate, judge, rank]
COMMANDS += [preferences, export, push, plan, doctor, store, shapes]
for command in COMMANDS:
    main.add_command(command)


@main.command(short_help="Print a script for shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: `itercomp completion bash >> ~/.bashrc`."""
    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(main, {}, "itercomp", "_ITERCOMP_COMPLETE").source())


if __name__ == "__main__":
    main()
