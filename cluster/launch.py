"""From a config to a finished run: checks, Ray, processes, the loop, the results."""

import asyncio
import logging
import time
from contextlib import ExitStack
from pathlib import Path

import ray

from actors.status import MeteredProgress, keep_status, keep_utilisation
from actors.stopping import stop_on_sigterm
from actors.telemetry import RunMeter
from actors.timing import keep_times
from actors.worker import WorkerHandle
from cluster.checks import check_models, check_ranks
from cluster.costs import RunCosts
from cluster.placement import role_sizes, workers
from cluster.processes import cluster, make_team, places, start_workers
from cluster.run_folder import claimed, load_run, prepare_folder, settled
from itercomp_rl.config.load import to_tree
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError, StoreError
from itercomp_rl.loop.dispatch import one_reason
from itercomp_rl.loop.rounds import run_rounds
from itercomp_rl.observability.logs import logging_to
from itercomp_rl.observability.metrics import RunLog
from itercomp_rl.observability.progress_bar import terminal
from itercomp_rl.observability.trackers import Run as TrackedRun
from itercomp_rl.observability.trackers import Trackers, check_trackers, dotted
from itercomp_rl.plan import Plan
from itercomp_rl.report.html import write_report
from itercomp_rl.report.images import held_out_pictures
from itercomp_rl.report.results import write_results
from itercomp_rl.run.ledger import StoreLedger
from itercomp_rl.run.prompts_record import put_prompts
from itercomp_rl.run.reuse import Shared, check_prompts, reusable, take_over
from itercomp_rl.store.live_weights import collect_run
from itercomp_rl.store.software import versions
from itercomp_rl.store.store import Store, open_store

log = logging.getLogger(__name__)


def run(config: Config, *, resume: bool, address: str | None = None, reuse: str | None = None) -> Path:
    """A whole run; returns the run folder with results.json in it.

    Args: reuse: another run; what it drew, ranked and learned as this one would is copied in place of made.

    Raises: IterCompError with the reason; what is committed stays, `resume` goes on from there.
    """
    began = time.monotonic()
    config = settled(config)
    plan = Plan(config=config)
    _ = plan.gallery_prompts, plan.evaluation_orders(plan.policy(-1))  # bad prompts show before anything starts
    check_models(config)
    check_trackers(config.tracking.trackers)
    check_ranks(config, plan.gallery_prompts)
    from itercomp_rl.forecast.memory import (
        check_memory,  # here: it imports every model class, and most mistakes show above
    )

    table = check_memory(
        config, {spec.label: ([role.name for role in spec.roles], spec.gpus) for spec in workers(config)}
    )
    log.info("memory, as estimated:\n%s", table)
    source = reusable_work(reuse, plan) if reuse else None
    with ExitStack() as stack:
        stack.enter_context(claimed(config.run_folder))
        folder = prepare_folder(config, resume=resume)
        stack.enter_context(logging_to(config))
        store = open_store(config.store_url, create=True, durable=config.store.durable)
        if source:
            taken = take_over(*source, store)
            found = ", ".join(f"{num} {kind}" for kind, num in taken.items()) or "nothing new"
            log.info("reused of %s: %s", reuse, found)
        put_prompts(store, plan)
        specs = workers(config)
        with cluster(address), RunCosts(folder, began) as costs, places(config, specs) as options:
            handles = start_workers(config, specs, options)
            log.info("%d processes are up after %.0f s", len(handles), time.monotonic() - began)
            progress = RunLog(folder, open_trackers(config, folder), held_out_pictures(store, plan), terminal())
            costs.follow(progress.phases)
            try:
                asyncio.run(_run(config, plan, store, handles, progress))
            finally:
                progress.close()
                for handle in handles.values():
                    ray.kill(handle)
    write_results(store, plan, folder, costs.facts(), versions())
    write_report(store, plan, folder)
    return folder


def reusable_work(run_: str, plan: Plan) -> tuple[list[Shared], Store]:
    """The work that a run shares with this one, and its store.

    Raises: ConfigError if there is no such run, none of its work is this one's too, or its images are of other prompts.
    """
    config, store = load_run(run_)
    shared = reusable(Plan(config=config), plan)
    if not shared:
        raise ConfigError(
            f"--reuse {run_}: none of its work is this run's too; what both draw alike is shared "
            f"(compare gallery and prompts in {config.run_folder / 'config.yaml'}), or leave --reuse out"
        )
    check_prompts(shared, store)
    return shared, store


async def _run(config: Config, plan: Plan, store: Store, handles: dict[str, WorkerHandle], progress: RunLog) -> None:
    meter = RunMeter(*role_sizes(config))
    team, gate = make_team(config, handles, meter)
    await team.policy_learner.join()  # type: ignore[attr-defined]  # the remote group's own step
    keepers = [
        asyncio.create_task(_keep_store_small(store)),
        asyncio.create_task(keep_status(meter, config.run_folder)),
        asyncio.create_task(keep_utilisation(meter, progress.record)),
        asyncio.create_task(keep_times(handles, config.run_folder)),
    ]
    try:
        with one_reason():
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(stop_on_sigterm(team, gate, config.actors.grace_s))
                ledger = StoreLedger(store, plan)
                await run_rounds(plan, team, ledger, MeteredProgress(progress, meter))
                watch.cancel()
    finally:
        for keeper in keepers:
            keeper.cancel()
        for outcome in await asyncio.gather(*keepers, return_exceptions=True):
            if isinstance(outcome, Exception):  # the run itself did not need it, but nobody should miss it unknown
                log.warning("what watches the run stopped before its end: %s: %s", type(outcome).__name__, outcome)


def open_trackers(config: Config, folder: Path) -> Trackers:
    """The trackers that the config names, told of the run."""
    settings = dotted(to_tree(config))
    run = TrackedRun(project=config.tracking.project, name=config.run.name, folder=folder, settings=settings)
    return Trackers(config.tracking.trackers, run)


async def _keep_store_small(store: Store, every_s: float = 20.0) -> None:
    """Old live weights are collected as the run goes on, what a killed writer left behind at its start."""
    with_orphans = True
    while True:
        try:
            await asyncio.to_thread(collect_run, store, grace_s=60.0, now=time.time(), with_orphans=with_orphans)
            with_orphans = False
        except StoreError as error:  # the store may be away for a while; without this its disk would fill
            log.warning("old weights were not collected, which is tried again in %g s: %s", every_s, error)
        await asyncio.sleep(every_s)
