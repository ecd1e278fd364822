"""The loop over the processes of a run, and what watches it meanwhile: status, utilisation, old weights, SIGTERM."""

import asyncio
import logging
import time
from collections.abc import Mapping

from actors.status import MeteredProgress, keep_status, keep_utilisation
from actors.stopping import stop_on_sigterm
from actors.telemetry import RunMeter
from actors.timing import keep_times
from actors.worker import WorkerHandle
from cluster.placement import role_sizes
from cluster.processes import make_team
from itercomp_rl.errors import StoreError
from itercomp_rl.loop.dispatch import one_reason
from itercomp_rl.loop.rounds import run_rounds
from itercomp_rl.observability.metrics import MetricsLog
from itercomp_rl.plan import Plan
from itercomp_rl.run.ledger import StoreLedger
from itercomp_rl.store.live_weights import collect_run
from itercomp_rl.store.store import Store

log = logging.getLogger(__name__)


async def drive(plan: Plan, store: Store, handles: Mapping[str, WorkerHandle], metrics: MetricsLog) -> None:
    """Play all rounds with these processes. Raises: IterCompError with the reason why they ended early."""
    config, folder = plan.config, plan.config.run_folder
    meter = RunMeter(*role_sizes(config))
    team, gate = make_team(config, handles, meter)
    await team.policy_learner.join()  # type: ignore[attr-defined]  # the remote group's own step
    watchers = [
        asyncio.create_task(_collect_old_weights(store)),
        asyncio.create_task(keep_status(meter, folder)),
        asyncio.create_task(keep_utilisation(meter, metrics.record)),
        asyncio.create_task(keep_times(handles, folder)),
    ]
    try:
        with one_reason():
            async with asyncio.TaskGroup() as group:
                signals = group.create_task(stop_on_sigterm(team, gate, config.actors.grace_s))
                await run_rounds(plan, team, StoreLedger(store, plan), MeteredProgress(metrics, meter))
                signals.cancel()
    finally:
        for watcher in watchers:
            watcher.cancel()
        for outcome in await asyncio.gather(*watchers, return_exceptions=True):
            if isinstance(outcome, Exception):  # the run can do without it, but its user should know that it is gone
                log.warning("what watches the run stopped before its end: %s: %s", type(outcome).__name__, outcome)


async def _collect_old_weights(store: Store, every_s: float = 20.0) -> None:
    """Delete old live weights again and again; the first time also what writers that were killed left behind."""
    with_orphans = True
    while True:
        try:
            await asyncio.to_thread(collect_run, store, grace_s=60.0, now=time.time(), with_orphans=with_orphans)
            with_orphans = False
        except StoreError as error:  # the store may be away for a while; if collecting ended here, its disk would fill
            log.warning("old weights were not collected, which is tried again in %g s: %s", every_s, error)
        await asyncio.sleep(every_s)
