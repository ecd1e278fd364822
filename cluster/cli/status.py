"""`itercomp status RUN`: how far a run is, from its folder and its store, live or afterwards."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.completion import complete_run

if TYPE_CHECKING:
    from rich.console import Group

    from itercomp_rl.run.status import RunState


@click.command(short_help="Say how far a run is.")
@click.argument("run", metavar="RUN", shell_complete=complete_run)
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C or the run's end.")
@click.option(
    "--every-s", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="Seconds between looks."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, once.")
def status(run: str, watch: bool, every_s: float, as_json: bool) -> None:
    """Say how far RUN (a folder, or a name under ./runs) is: rounds, roles, devices, the last values."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.live import Live

    from cluster.run_folder import load_run
    from itercomp_rl.run.status import read_state

    config, store = load_run(run)
    if as_json:
        click.echo(json.dumps(asdict(read_state(config, store, time.time())), indent=2))
        return
    console = Console()
    if not watch:
        console.print(shown(read_state(config, store, time.time())))
        return
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                state = read_state(config, store, time.time())
                live.update(shown(state), refresh=True)
                if state.is_finished:
                    return
                time.sleep(every_s)
        except KeyboardInterrupt:
            return


def shown(state: "RunState") -> "Group":
    """Tables of a run's state."""
    from rich.console import Group
    from rich.table import Table

    rounds = Table("round", "images", "ranked", "reward models", "policy", "evaluated", title=_headline(state))
    for row in state.rounds:
        rewards = ", ".join(f"{aspect} {accuracy:.0%}" for aspect, accuracy in row.rewards.items()) or "-"
        policy = "published" if row.is_published else f"{row.updates} of {row.total_updates} updates"
        images, ranked = f"{row.segments} of {row.total_segments}", f"{row.ranked} of {row.total_ranked}"
        rounds.add_row(str(row.round), images, ranked, rewards, policy, f"{row.graded} of {row.total_graded}")
    parts: list[Any] = [rounds]  # Any: whatever rich can print
    if state.live is not None:
        roles = Table("role", "members", "each holds", "busy", "waiting", title=_devices(state.live))
        for name, role in state.live["roles"].items():
            roles.add_row(name, str(role["members"]), role["devices"], str(role["busy"]), str(role["waiting"]))
        parts.append(roles)
    if state.values:
        values = Table("value", "last", "round")
        for name, (value, round_) in sorted(state.values.items()):
            values.add_row(name, f"{value:.4g}", str(round_))
        parts.append(values)
    return Group(*parts)


def _headline(state: "RunState") -> str:
    if state.is_finished:
        return f"{state.name}: finished, results in {Path(state.folder) / 'results.json'}"
    if state.live is None:
        return f"{state.name}: not running; itercomp run ... --resume continues it"
    phase = f", {state.live['phase']} {state.live['done']} of {state.live['total']}" if state.live["phase"] else ""
    return f"{state.name}: round {state.live['round']}{phase}"


def _devices(live: dict[str, Any]) -> str:
    shares = live["utilisation"].items()
    return "devices that work, last minute: " + ", ".join(f"{share:.0%} of all {name}s" for name, share in shares)
