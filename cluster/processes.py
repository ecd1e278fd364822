"""A run's processes: Ray, the workers in their places, and each role as one object over those that hold it."""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import ray

from actors.team import (
    Gate,
    JudgePool,
    Limits,
    PolicyLearnerGroup,
    RemoteRewardLearner,
    RemoteRole,
    RollerPool,
    SamplerPool,
)
from actors.telemetry import RunMeter
from actors.worker import Worker, WorkerHandle, WorkerSpec
from cluster.placement import reserved, workers
from cluster.ray_folder import private_folder
from cluster.ray_job import is_inside_job
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import StuckError
from itercomp_rl.loop.roles import Team
from itercomp_rl.loop.worker_pool import make_pools

log = logging.getLogger(__name__)

# glibc gives large blocks back to the kernel at once and takes them anew at the next step; on virtual machines the page
# faults cost more than the arithmetic of a small model.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Ray for the time of a run: the job's own cluster, one named on purpose, or a private local one.

    A cluster that merely happens to run here is never joined, nor one that RAY_ADDRESS names for other commands.
    """
    env = {"env_vars": MALLOC | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "runtime_env": env}
    folder = None
    if address is None and is_inside_job():
        ray.init(**quiet)
    elif address:
        ray.init(address=address, **quiet)
    else:
        folder = private_folder()
        # Without a token of its own Ray writes one into the home folder, which there need not be.
        if not os.environ.get("RAY_AUTH_TOKEN"):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        ray.init(address="local", include_dashboard=False, _temp_dir=str(folder), **quiet)
    try:
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def places(config: Config, specs: Sequence[WorkerSpec]) -> AbstractContextManager[dict[str, Any]]:
    """Ray's options for each of the processes, by label; their places are held as long as this is open."""
    return reserved(specs, config.actors.start_timeout_s, cluster_grows=config.actors.autoscale)


def start_workers(
    config: Config,
    specs: Sequence[WorkerSpec],
    options: Mapping[str, Any],
    *,
    worker: type[Worker] = Worker,
) -> dict[str, WorkerHandle]:
    """The processes, by label, once all of them answer. options: of `places`.

    Raises: StuckError naming those that do not come up in time.
    """
    handles: dict[str, WorkerHandle] = {
        spec.label: ray.remote(worker).options(max_restarts=-1, **options[spec.label]).remote(spec, config)
        for spec in specs
    }
    waiting = {handle.ready.remote(): label for label, handle in handles.items()}
    ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=config.actors.start_timeout_s)
    if late:
        raise StuckError(
            f"{', '.join(waiting[ref] for ref in late)} did not start within actors.start_timeout_s "
            f"({config.actors.start_timeout_s:g} s): look at the worker logs, or raise the limit"
        )
    for fact in ray.get(ready):
        log.debug("process %(label)s: pid %(pid)s on %(host)s", fact)
    return handles


def make_team(config: Config, handles: Mapping[str, WorkerHandle], meter: RunMeter) -> tuple[Team, Gate]:
    """Each role as one object, over the processes that hold its members, and the gate that all their work passes.

    Args: meter: counts every order.
    """
    actors, retries, gate = config.actors, config.actors.max_retries, Gate(meter)
    limits = Limits(start_s=actors.start_timeout_s, progress_s=actors.progress_timeout_s)
    by_kind: dict[str, list[RemoteRole]] = {}
    for spec in workers(config):
        for role in spec.roles:
            by_kind.setdefault(role.kind, []).append(RemoteRole(handles[spec.label], spec.label, role.name, limits))
    ranks = sorted(by_kind["policy_learner"], key=lambda role: int(role.role.rsplit("-", 1)[1]))
    backend = "nccl" if config.actors.policy_learners.gpus else "gloo"
    learners = {role.role.split("-", 1)[1]: role for role in by_kind["reward_learner"]}
    pools = make_pools(actors, by_kind)
    team = Team(
        sampler=SamplerPool(pools["sampler"], "sampler", retries, gate),
        judge=JudgePool(pools["judge"], "judge", retries, gate),
        reward_learners={aspect: RemoteRewardLearner(learners[aspect], gate) for aspect in config.prompts.aspects},
        roller=RollerPool(pools["roller"], "roller", retries, gate),
        policy_learner=PolicyLearnerGroup(ranks, backend, limits.progress_s, gate),
    )
    return team, gate
