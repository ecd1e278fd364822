"""From a config to a finished run: check it, open its folder and store, play its rounds, leave its results."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.checks import check_external, check_models, check_preferences, check_ranks, check_splits, check_vlm
from cluster.costs import RunCosts
from cluster.drive import drive
from cluster.local_paths import settled
from cluster.placement import workers
from cluster.processes import cluster, places, start_workers
from cluster.run_folder import claimed, load_run, prepare_folder
from itercomp_rl.config.load import to_tree
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.observability.logs import logging_to
from itercomp_rl.observability.metrics import MetricsLog
from itercomp_rl.observability.progress_bar import terminal
from itercomp_rl.observability.trackers import TrackedRun, Trackers, check_trackers, dotted
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.imported import take_in
from itercomp_rl.report.html import write_report
from itercomp_rl.report.images import held_out_pictures
from itercomp_rl.report.results import write_results
from itercomp_rl.run.prompts_record import put_prompts
from itercomp_rl.run.reuse import Shared, check_prompts, reusable, take_over
from itercomp_rl.store.software import versions
from itercomp_rl.store.store import Store, open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reused:
    """Another run, and its work that this run would make in the same way."""

    run: str
    shared: list[Shared]
    store: Store


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """A run of which everything that can be checked without a device was checked."""

    config: Config
    plan: Plan
    reused: Reused | None
    began: float  # time.monotonic()


def run(config: Config, *, resume: bool, address: str | None = None, reuse: str | None = None) -> Path:
    """Run a config to its end; returns the run folder with results.json in it.

    Args: reuse: another run; what it drew, ranked and learned as this one would is copied instead of made again.
    Raises: IterCompError with the reason; what is committed stays, and `resume` goes on from there.
    """
    checked = check(config, reuse)
    with opened(checked, resume=resume) as store:
        costs = play(checked, store, address)
        return leave(checked, store, costs)


def check(config: Config, reuse: str | None) -> CheckedRun:
    """Check all that can be checked before anything is written. Raises: ConfigError, CheckpointError."""
    began = time.monotonic()
    config = settled(config)
    plan = Plan(config=config)
    check_splits(plan)
    check_models(config)
    check_trackers(config.tracking.trackers)
    check_ranks(config, plan.gallery_prompts)
    check_preferences(config)
    # Imported here, as it imports every model class, and most mistakes are found above.
    from itercomp_rl.forecast.memory import check_memory
    from itercomp_rl.forecast.truncation import check_lengths

    check_lengths(config, plan.texts)
    roles = {spec.label: ([role.name for role in spec.roles], spec.gpus) for spec in workers(config)}
    log.info("memory, as estimated:\n%s", check_memory(config, roles))
    # Last, since a server is asked for an image or an answer, which may cost money.
    check_external(plan)
    check_vlm(plan, is_whole=reuse is None)
    return CheckedRun(config=config, plan=plan, reused=reusable_work(reuse, plan) if reuse else None, began=began)


@contextmanager
def opened(checked: CheckedRun, *, resume: bool) -> Iterator[Store]:
    """The run's store, while this process is the only driver of its folder; with the reused work and the prompts in it.

    Raises: ConfigError if the folder cannot be had, or holds a run and `resume` is off.
    """
    config = checked.config
    with claimed(config.run_folder):
        folder = prepare_folder(config, resume=resume)
        with logging_to(folder / "log.jsonl", run=config.run.name, stderr_too=config.tracking.json_logs):
            store = open_store(config.store_url, create=True, durable=config.store.durable)
            if reused := checked.reused:
                taken = take_over(reused.shared, reused.store, store)
                counts = ", ".join(f"{num} {kind}" for kind, num in taken.items()) or "nothing new"
                log.info("reused of %s: %s", reused.run, counts)
            if folders := config.reward.preferences:
                log.info("imported preferences: %d records copied into the store", take_in(store, folders))
            put_prompts(store, checked.plan)
            yield store


def play(checked: CheckedRun, store: Store, address: str | None) -> dict[str, Any]:
    """Start the processes, play all rounds, stop the processes; returns what that cost.

    Raises: IterCompError with the reason; the processes are gone then too.
    """
    config, plan, folder = checked.config, checked.plan, checked.config.run_folder
    specs = workers(config)
    with cluster(address), RunCosts(folder, checked.began) as costs, places(config, specs) as options:
        handles = start_workers(config, specs, options)
        log.info("%d processes are up after %.0f s", len(handles), time.monotonic() - checked.began)
        metrics = MetricsLog(folder, open_trackers(config, folder), held_out_pictures(store, plan), terminal())
        costs.follow(metrics.phases)
        try:
            asyncio.run(drive(plan, store, handles, metrics))
        finally:
            metrics.close()
            for handle in handles.values():
                ray.kill(handle)
    return costs.facts()


def leave(checked: CheckedRun, store: Store, costs: dict[str, Any]) -> Path:
    """Write the results, the tables, the pictures and the report; returns the run folder."""
    folder = checked.config.run_folder
    write_results(store, checked.plan, folder, costs, versions())
    write_report(store, checked.plan, folder)
    return folder


def reusable_work(run_: str, plan: Plan) -> Reused:
    """The work of another run that the run of this plan would make in the same way.

    Raises: ConfigError if there is no such run, it shares no work with this one, or its images are of other prompts.
    """
    config, store = load_run(run_)
    shared = reusable(Plan(config=config), plan)
    if not shared:
        raise ConfigError(
            f"--reuse {run_}: none of its work is this run's too; what both draw alike is shared "
            f"(compare gallery and prompts in {config.run_folder / 'config.yaml'}), or leave --reuse out"
        )
    check_prompts(shared, store)
    return Reused(run=run_, shared=shared, store=store)


def open_trackers(config: Config, folder: Path) -> Trackers:
    """The trackers that the config names, with the run's name and settings."""
    settings = dotted(to_tree(config))
    run = TrackedRun(project=config.tracking.project, name=config.run.name, folder=folder, settings=settings)
    return Trackers(config.tracking.trackers, run)
