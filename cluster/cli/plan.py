"""`itercomp plan CONFIG`: who runs where, in how much memory; how long it takes, and which ratio of actors is best.

Imports wait until the command runs, so that --help stays quick.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.cli.completion import complete_config, complete_run

if TYPE_CHECKING:
    from rich.table import Table

    from actors.worker import WorkerSpec
    from cluster.placement import Node
    from itercomp_rl.config.schema import Config
    from itercomp_rl.forecast.simulation import Forecast
    from itercomp_rl.forecast.stage_times import StageTimes
    from itercomp_rl.items import DrawOrder, ModelRef
    from itercomp_rl.plan import Plan

_MIB = 2**20


@click.command(short_help="Say who runs where, in how much memory, and how long it takes.")
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1)
@click.option("--cluster", "size", metavar="AxB", help="A nodes of B GPUs (of B CPU cores, if CONFIG names no GPU).")
@click.option("--times", "file", type=click.Path(path_type=Path), help="Stage times in seconds, as YAML.")
@click.option("--from", "run", metavar="RUN", shell_complete=complete_run, help="Stage times as RUN measured them.")
def plan(config: str, overrides: tuple[str, ...], size: str | None, file: Path | None, run: str | None) -> None:
    """What a run of CONFIG with OVERRIDES asks for; with stage times, how long it takes and which ratio is best."""
    from rich.console import Console

    from cluster.local_paths import settled
    from cluster.placement import Node, cores_and_gpus, workers
    from itercomp_rl.config.load import load_config
    from itercomp_rl.forecast.simulation import LightPlan

    if file is not None and run is not None:
        raise click.UsageError("give --times or --from, not both")
    settings = settled(load_config(config, list(overrides)))
    nodes = _nodes(size, settings) if size else None
    console = Console()
    wide = console if console.is_terminal else Console(width=120)
    light = LightPlan(config=settings)
    wide.print(who_runs_where(settings))
    wide.print(counts(light))
    click.echo(memory(settings))
    if nodes is not None:
        _check(settings, nodes)
    times = _times(file, run)
    if times is None:
        click.echo("for times and the best ratio give stage times: --times FILE or --from RUN (docs/tuning-ratios.md)")
        return
    if nodes is None:
        cores, gpus = cores_and_gpus(workers(settings))
        nodes = [Node(name="all", resources={"CPU": float("inf") if gpus else cores, "GPU": gpus})]
    wide.print(*forecasts(light, times, nodes), sep="\n")


def who_runs_where(config: "Config") -> "Table":
    """Kinds of processes, and what each holds."""
    from rich.table import Table

    from cluster.placement import workers

    table = Table("processes", "kind", "roles of each", "CPUs", "GPUs", "also asks for", title="who runs where")
    kinds: Counter[tuple[str, ...]] = Counter()
    for spec in workers(config):
        roles = Counter(role.kind for role in spec.roles)
        words = ", ".join(f"{num} {kind}" if num > 1 else kind for kind, num in roles.items())
        extra = [f"{amount:g} {name}" for name, amount in spec.resources.items()]
        extra += [f"{key}={value}" for key, value in spec.labels.items()]
        row = (spec.label.rpartition("-")[0], words, f"{spec.cpus:g}", f"{spec.gpus:g}", ", ".join(extra))
        kinds[row] += 1
    for row, num in kinds.items():
        table.add_row(str(num), *row)
    return table


def counts(plan: "Plan") -> "Table":
    """How much work the run is, and what it writes to the store."""
    from rich.table import Table

    from itercomp_rl.files.checkpoint_path import checkpoint_path
    from itercomp_rl.forecast.model_sizes import drawn_px
    from itercomp_rl.gallery.external.folder_system import side_of
    from itercomp_rl.gallery.external.image_folder import open_folder

    @cache
    def drawn_side(model: "ModelRef") -> int:
        if model.system == "folder":
            folder = open_folder(model.checkpoint)
            used = (image for prompt in plan.gallery_prompts for image in folder.images_of(prompt.text))
            return side_of(model, next(used, None))
        return model.size_px or drawn_px(checkpoint_path(model.checkpoint), None)

    from itercomp_rl.forecast.role_memory import published_bytes

    def images(orders: Sequence["DrawOrder"]) -> tuple[int, float]:
        sides = [(drawn_side(o.model), len(o.prompts)) for o in orders]
        return sum(num for _, num in sides), sum(3 * side**2 * num for side, num in sides) / _MIB

    config, segments = plan.config, range(len(plan.segments()))
    live, finished = published_bytes(config)
    # Live: one before the first update, one after each. Finished: the averages that are probed, and the round's.
    weights = ((config.policy.updates + 1) * live + (1 + len(plan.probe_updates)) * finished) / _MIB
    rollouts = f"{config.policy.updates * plan.rollouts_per_update} of {config.policy.rollout_batch}"
    columns = (
        "round",
        "gallery images",
        "images ranked",
        "rollouts",
        "held-out images",
        "images, MiB",
        "policies, MiB",
    )
    table = Table(*columns, title="what is to be done, and goes to the store")
    for round_ in range(plan.rounds):
        drawn, drawn_mib = images([order for i in segments for order in plan.draw_orders(round_, i)])
        ranked = sum(len(refs) for i in segments for refs in plan.rank_order(round_, i).images)
        models = [plan.policy(round_), *plan.founders(round_), *([plan.policy(-1)] if round_ == 0 else [])]
        probes = [order for update in plan.probe_updates for order in plan.probe_orders(round_, update)]
        held_out, held_out_mib = images([*plan.grading_orders(models), *probes])
        sizes = (f"{drawn_mib + held_out_mib:.0f}", f"{weights:.0f}")
        table.add_row(str(round_), str(drawn), str(ranked), rollouts, str(held_out), *sizes)
    return table


def memory(config: "Config") -> str:
    """The table of what one process of each kind needs, and all. Raises: ConfigError if it cannot fit."""
    from cluster.placement import workers
    from itercomp_rl.forecast.memory import check_memory

    specs = workers(config)
    table = check_memory(config, {spec.label: ([role.name for role in spec.roles], spec.gpus) for spec in specs})
    firsts = {spec.label.rpartition("-")[0]: spec.label for spec in reversed(specs)}
    shown, lines = True, []
    for line in table.splitlines():
        if process := re.match(r" *[\d.]+ (\S+-\d+)( on .* GPU)?$", line):
            shown = process[1] in firsts.values()
        elif not line.startswith("      "):
            shown = True
        if shown:
            lines.append(line)
    return "\n".join(lines)


def forecasts(plan: "Plan", times: "StageTimes", nodes: Sequence["Node"]) -> list["Table | str"]:
    """The run as configured, and with the best ratio that these nodes allow."""
    from cluster.placement import role_names, unplaced, workers
    from itercomp_rl.errors import ConfigError
    from itercomp_rl.forecast.ratios import best_ratio, counts_of
    from itercomp_rl.forecast.simulation import LightPlan, simulate

    assert isinstance(plan, LightPlan)

    def processes(config: "Config") -> dict[str, list[str]] | None:
        specs = workers(config)
        try:
            memory(config)
        except ConfigError:
            return None
        return None if unplaced(specs, nodes) else role_names(specs)

    own = simulate(plan, times, role_names(workers(plan.config)))
    found: list[Table | str] = [forecast_table("as configured", plan, own)]
    if plan.config.actors.layout == "shared":
        return [*found, "layout shared: every process does all kinds of work, so there is no ratio to choose"]
    kind = "GPU" if any(spec.gpus for spec in workers(plan.config)) else "CPU"
    devices = sum(node.resources.get(kind, 0.0) for node in nodes)
    best, forecast = best_ratio(plan, times, devices, processes)
    chosen, before = counts_of(best), counts_of(plan.config)
    overrides = [f"actors.{name}.count={num}" for name, num in chosen.items() if num != before[name]]
    if not overrides:
        return [*found, f"no other ratio on {devices:g} {kind}s is better"]
    found.append(forecast_table(f"best ratio on {devices:g} {kind}s", replace(plan, config=best), forecast))
    return [*found, f"{own.seconds / forecast.seconds:.2f} times as fast: {' '.join(overrides)}"]


def forecast_table(title: str, plan: "Plan", forecast: "Forecast") -> "Table":
    """One forecast: seconds by round and phase, and how busy each role is."""
    from rich.table import Table

    per_round = ", ".join(f"{seconds:.0f}" for seconds in forecast.round_s)
    phases = ("gallery", "rewards", "policy", "evaluation")
    parts = ", ".join(f"{phase} {forecast.phase_s(phase):.0f}" for phase in phases)
    caption = f"{forecast.seconds:.0f} s; rounds {per_round} s; {parts} s"
    if forecast.played_updates < plan.config.policy.updates:
        caption += f"; {forecast.played_updates} updates of a round were played, the rest goes on at their pace"
    table = Table("role", "members", "works, share of the time", title=title, caption=caption)
    for role, share in forecast.utilisation.items():
        table.add_row(role, str(forecast.members[role]), f"{share:.0%}")
    return table


def _nodes(size: str, config: "Config") -> list["Node"]:
    from cluster.placement import Node, workers
    from itercomp_rl.errors import ConfigError

    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if not found or "0" in found.groups():
        raise ConfigError(f"--cluster is {size!r}: must be nodes x devices of each, such as 8x8")
    num, each = (int(part) for part in found.groups())
    specs = workers(config)
    labels = {key: value for spec in specs for key, value in spec.labels.items()}
    extra = {name: float("inf") for spec in specs for name in spec.resources}
    if any(spec.gpus for spec in specs):
        resources = {"CPU": float("inf"), "GPU": float(each), **extra}
    else:
        resources = {"CPU": float(each), **extra}
    return [Node(name=f"node-{i}", resources=resources, labels=labels) for i in range(num)]


def _check(config: "Config", nodes: Sequence["Node"]) -> None:
    """Raises: ConfigError if the config's own counts have no room."""
    from cluster.placement import asked_for, check_room, unplaced, workers
    from itercomp_rl.errors import ConfigError

    specs: list[WorkerSpec] = workers(config)
    check_room(specs, nodes)
    if left := unplaced(specs, nodes):
        names = ", ".join(spec.label for spec in left)
        raise ConfigError(
            f"the devices of {len(nodes)} nodes cannot be cut so that {names} find room\n{asked_for(specs)}"
        )


def _times(file: Path | None, run: str | None) -> "StageTimes | None":
    from cluster.run_folder import load_run
    from itercomp_rl.forecast.stage_times import load_times, measured_times
    from itercomp_rl.plan import Plan

    if file is not None:
        return load_times(file)
    if run is None:
        return None
    config, _ = load_run(run)
    return measured_times(config.run_folder, Plan(config=config))
