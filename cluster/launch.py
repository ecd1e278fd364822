"""From a config to a finished run: checks, Ray, processes, the loop, the results."""

import asyncio
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray
from omegaconf import OmegaConf

from actors.metered import MeteredProgress, keep_status, keep_utilisation, metered
from actors.stopping import stop_on_sigterm
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
from actors.timing import keep_times
from actors.worker import Worker, WorkerHandle, WorkerSpec
from cluster.placement import reserved, role_sizes, workers
from cluster.run_folder import load_run as load_run
from itercomp_rl.config import config_from, to_tree
from itercomp_rl.diffusion.checkpoint import GALLERY_ONLY, check_checkpoint, check_drawing, check_sampler
from itercomp_rl.errors import CheckpointError, ConfigError, StuckError
from itercomp_rl.items import Prompt, RewardReport
from itercomp_rl.judges.rank_files import check_coverage, load_ranks
from itercomp_rl.judges.reward import reward_role
from itercomp_rl.loop import run_rounds
from itercomp_rl.metrics import Pictures, RunLog
from itercomp_rl.models import checkpoint_path
from itercomp_rl.orders import one_reason
from itercomp_rl.plan import Plan
from itercomp_rl.progress import terminal
from itercomp_rl.results import mean_gain
from itercomp_rl.reward.source import check_reward_source
from itercomp_rl.roles import Team
from itercomp_rl.rules import PLANNED, is_rank_file
from itercomp_rl.run_logs import JsonLines
from itercomp_rl.schema import POLICY, Config
from itercomp_rl.store import weights
from itercomp_rl.store.layout import version_place
from itercomp_rl.store.live_weights import collect_run
from itercomp_rl.store.store import Store, open_store
from itercomp_rl.trackers import Run as TrackedRun
from itercomp_rl.trackers import Trackers, check_trackers, dotted

log = logging.getLogger(__name__)

# glibc gives large blocks back to the kernel at once and takes them anew at the next step; on virtual machines the page
# faults cost more than the arithmetic of a small model.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}


class StoreLedger:
    """Satisfies loop.Ledger."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store, self._plan = store, plan

    def has(self, kind: str, id_: str) -> bool:
        return self._store.has(kind, id_)

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        if self._store.find(version_place(reward_role(aspect), version)) is None:
            return None
        return RewardReport(**weights.load_attrs(self._store, reward_role(aspect), version)["report"])

    def has_policy(self, version: int) -> bool:
        return self._store.find(version_place("policy", version)) is not None

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return mean_gain(self._store, self._plan, version)


# Pipelines that a planned system can draw with.
_CARRIERS = {
    "rpg": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "omost": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "lmd": ("StableDiffusionPipeline", *GALLERY_ONLY),
    "instance_diffusion": ("StableDiffusionPipeline", *GALLERY_ONLY),
}


def check_models(config: Config) -> None:
    """Raises: CheckpointError naming the first model of the config that cannot be loaded."""
    pipeline = check_checkpoint(checkpoint_path(config.policy.model))
    if pipeline in GALLERY_ONLY:
        raise CheckpointError(f"policy.model is {config.policy.model!r}, a {pipeline}: it can only be a gallery member")
    for name, member in config.gallery.members.items():
        checkpoint = config.policy.model if member.model == POLICY else member.model
        found = (check_checkpoint if member.system in PLANNED else check_drawing)(checkpoint_path(checkpoint))
        if member.system in PLANNED and found not in _CARRIERS[member.system]:
            kinds = "SDXL" if member.system in ("rpg", "omost") else "GLIGEN"
            raise CheckpointError(
                f"gallery.members.{name}.model is {member.model!r}, a {found}: system {member.system!r} needs an SD1.x "
                f"or {kinds} checkpoint"
            )
    check_sampler(pipeline, config.policy.sampler)
    check_reward_source("reward.trunk", config.reward.trunk)
    if "reward" in (config.judge.first_round, config.evaluation.judge):
        for aspect, source in config.judge.reward_models.items():
            check_reward_source(f"judge.reward_models.{aspect}", source)


def check_ranks(config: Config, prompts: Sequence[Prompt]) -> None:
    """Raises: ConfigError if the first round's ranks come from files that are wrong or rank none of the prompts."""
    source = config.judge.first_round
    if not is_rank_file(source):
        return
    ranks = load_ranks(source, config.prompts.aspects, list(config.gallery.members))
    for aspect, count in check_coverage(source, ranks, prompts, config.prompts.aspects).items():
        log.info("%s: %d of %d gallery prompts are ranked", aspect, count, len(prompts))


def run(config: Config, *, resume: bool, address: str | None = None) -> Path:
    """A whole run; returns the run folder with results.json in it.

    Raises: IterCompError with the reason; what is committed stays, `resume` goes on from there.
    """
    began = time.monotonic()
    plan = Plan(config=config)
    _ = plan.gallery_prompts, plan.evaluation_orders(plan.policy(-1))  # bad prompts show before anything starts
    check_models(config)
    check_trackers(config.tracking.trackers)
    check_ranks(config, plan.gallery_prompts)
    from itercomp_rl.memory import check_memory  # here: it imports every model class, and most mistakes show above

    table = check_memory(
        config, {spec.label: ([role.name for role in spec.roles], spec.gpus) for spec in workers(config)}
    )
    log.info("memory, as estimated:\n%s", table)
    folder = prepare_folder(config, resume=resume)
    store = open_store(config.store_url, create=True, durable=config.store.durable)
    specs = workers(config)
    with logging_to(config), cluster(address), MemoryPeak() as peak, places(config, specs) as options:
        prompts = ray.put(plan.rolled_prompts)  # held here: a process that starts again asks for it again
        handles = start_workers(config, specs, options, prompts=prompts)
        log.info("%d processes are up after %.0f s", len(handles), time.monotonic() - began)
        progress = RunLog(folder, open_trackers(config, folder), held_out_pictures(store, plan), terminal())
        try:
            asyncio.run(_run(config, plan, store, handles, progress))
        finally:
            progress.close()
            for handle in handles.values():
                ray.kill(handle)
    from itercomp_rl.report import write_results

    facts = {"wall_s": round(time.monotonic() - began, 1), "peak_rss_mb": round(peak.mib), "phases": progress.phases}
    write_results(store, plan, folder, facts, versions())
    from itercomp_rl.page.write import write_report

    write_report(store, plan, folder)
    return folder


@contextmanager
def logging_to(config: Config) -> Iterator[None]:
    """The driver's lines also as JSON in <run folder>/log.jsonl, and on stderr where the config asks for it."""
    lines = JsonLines(run=config.run.name, process="driver")
    file = logging.FileHandler(config.run_folder / "log.jsonl", encoding="utf-8")
    file.setFormatter(lines)
    root = logging.getLogger()
    root.addHandler(file)
    for handler in root.handlers:
        if config.tracking.json_logs:
            handler.setFormatter(lines)
    try:
        yield
    finally:
        root.removeHandler(file)
        file.close()


async def _run(config: Config, plan: Plan, store: Store, handles: dict[str, WorkerHandle], progress: RunLog) -> None:
    team, gate = make_team(config, handles)
    await team.policy_learner.join()  # type: ignore[attr-defined]  # the remote group's own step
    meter = RunMeter(*role_sizes(config))
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
                await run_rounds(plan, metered(team, meter), ledger, MeteredProgress(progress, meter))
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


def held_out_pictures(store: Store, plan: Plan) -> Pictures | None:
    """What trackers are shown after a round: at most tracking.images held-out images of its policy."""
    num = plan.config.tracking.images
    if not num:
        return None

    def pictures(round_: int) -> NDArray[np.uint8] | None:
        order = plan.evaluation_orders(plan.policy(round_))[0]
        if not store.has("evaluations", order.id):
            return None  # the evaluation of the base and the gallery, before the first round
        return store.get_rows("evaluations", order.id, "images", slice(0, num))

    return pictures


async def _keep_store_small(store: Store, every_s: float = 20.0) -> None:
    """Old live weights are collected as the run goes on, what a killed writer left behind at its start."""
    await asyncio.to_thread(collect_run, store, grace_s=60.0, now=time.time(), with_orphans=True)
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(collect_run, store, grace_s=60.0, now=time.time())


def prepare_folder(config: Config, *, resume: bool) -> Path:
    """The run folder with its config in it; an existing run is only continued with `resume` and the same config.

    Raises: ConfigError if the folder holds a run and `resume` is off, or the config differs in more than its actors.
    """
    folder = config.run_folder
    file = folder / "config.yaml"
    if file.exists():
        if not resume:
            raise ConfigError(
                f"run.name is {config.run.name!r}, and {folder} holds such a run: continue it with --resume, "
                "or choose another run.name"
            )
        old = config_from(OmegaConf.to_container(OmegaConf.load(file)))
        differing = [
            key for key, value in to_tree(config).items() if value != to_tree(old)[key] and key not in _MAY_CHANGE
        ]
        if differing:
            raise ConfigError(
                f"--resume with another {', '.join(differing)}: a run keeps its settings; give the old ones ({file}), "
                "or start a new run under another run.name"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".rayignore").write_text("*\n", encoding="utf-8")  # runs never travel with a job's working folder
        OmegaConf.save(OmegaConf.create(to_tree(config)), file)
    except OSError as error:
        raise ConfigError(f"run.dir is {config.run.dir!r}: {folder} cannot be written ({error})") from error
    return folder


_MAY_CHANGE = ("actors", "tracking", "store")


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Ray for the time of a run: the job's own cluster, one named on purpose, or a private local one.

    A cluster that merely happens to run here is never joined, nor one that RAY_ADDRESS names for other commands.
    """
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and address is None  # Ray sets it for a job's entrypoint
    env = {"env_vars": MALLOC | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "runtime_env": env}
    temporary = None
    if inside_job:
        ray.init(**quiet)
    elif address:
        ray.init(address=address, **quiet)
    else:
        temporary = tempfile.mkdtemp(prefix="ray-")  # short: sockets live below it
        ray.init(address="local", include_dashboard=False, _temp_dir=temporary, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def places(config: Config, specs: Sequence[WorkerSpec]) -> AbstractContextManager[dict[str, Any]]:
    """Ray's options for each of the processes, by label; their places are held as long as this is open."""
    return reserved(specs, config.actors.start_timeout_s)


def start_workers(
    config: Config,
    specs: Sequence[WorkerSpec],
    options: Mapping[str, Any],
    *,
    prompts: ray.ObjectRef | tuple[()] = (),
    worker: type[Worker] = Worker,
) -> dict[str, WorkerHandle]:
    """The processes, by label, once all of them answer. options: of `places`.

    prompts: the texts that rollouts will name; rollers and policy learners need them.
    Raises: StuckError naming those that do not come up in time.
    """
    handles: dict[str, WorkerHandle] = {
        spec.label: ray.remote(worker).options(max_restarts=-1, **options[spec.label]).remote(spec, config, prompts)
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


def make_team(config: Config, handles: dict[str, WorkerHandle]) -> tuple[Team, Gate]:
    """Each role as one object, over the processes that hold its members, and the gate that all their work passes."""
    actors, retries, gate = config.actors, config.actors.max_retries, Gate()
    limits = Limits(start_s=actors.start_timeout_s, progress_s=actors.progress_timeout_s)
    by_kind: dict[str, list[RemoteRole]] = {}
    for spec in workers(config):
        for role in spec.roles:
            by_kind.setdefault(role.kind, []).append(RemoteRole(handles[spec.label], spec.label, role.name, limits))
    ranks = sorted(by_kind["policy_learner"], key=lambda role: int(role.role.rsplit("-", 1)[1]))
    backend = "nccl" if config.actors.policy_learners.gpus else "gloo"
    learners = {role.role.split("-", 1)[1]: role for role in by_kind["reward_learner"]}
    team = Team(
        sampler=SamplerPool(by_kind["sampler"], retries, gate),
        judge=JudgePool(by_kind["judge"], retries, gate),
        reward_learners={aspect: RemoteRewardLearner(learners[aspect], gate) for aspect in config.prompts.aspects},
        roller=RollerPool(by_kind["roller"], retries, gate),
        policy_learner=PolicyLearnerGroup(ranks, backend, limits.progress_s, gate),
    )
    return team, gate


class MemoryPeak:
    """The highest resident memory of this process and all it started, sampled twice a second.

    Pages that processes share count for each.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryPeak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # ended since it was listed
            self.mib = max(self.mib, total / 2**20)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("torch", "diffusers", "transformers", "ray", "deepspeed", "zarr", "numpy")
    return {name: metadata.version(name) for name in names}


def write_json(path: Path, tree: Any) -> None:
    """JSON for people and programs, in one piece or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    new.replace(path)
