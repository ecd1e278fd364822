"""The one Ray actor: a process that holds roles and forwards calls to them. The layout says how many roles share it."""

import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from actors.telemetry import ProcessMeter
from itercomp_rl.config.schema import Config
from itercomp_rl.observability.logs import JsonLines, TextLines, log_context, order_facts
from itercomp_rl.observability.work_times import WorkTimes

if TYPE_CHECKING:
    from itercomp_rl.diffusion.encoded import EncodedPrompts  # it imports torch
    from itercomp_rl.store.image_loader import ImageLoader  # it imports torch

# A Ray handle of a Worker. Any: Ray annotates what a handle's attributes give as Never, which hides code from checks.
WorkerHandle: TypeAlias = Any

LEARNERS = ("reward_learner-", "policy_learner-")  # how the names of learners begin


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """RoleSpec(kind="reward_learner", name="reward_learner-attribute")."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What one process holds: WorkerSpec(label="shared-0", roles=(RoleSpec(...), ...), cpus=1, gpus=0)."""

    label: str
    roles: tuple[RoleSpec, ...]
    cpus: float
    gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)  # Ray's custom ones
    labels: Mapping[str, str] = field(default_factory=dict)  # that its node must have


class Worker:
    """Lives in its own process; builds each role on its first call, so that a restarted process is whole again."""

    def __init__(self, spec: WorkerSpec, config: Config) -> None:
        import torch  # here, not above: the driver imports this file and needs no torch

        from itercomp_rl.store.store import open_store

        handler = logging.StreamHandler()
        as_json = config.tracking.json_logs
        handler.setFormatter(JsonLines(run=config.run.name, process=spec.label) if as_json else TextLines())
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        _quiet_libraries()
        torch.set_num_threads(config.actors.threads)
        torch.set_flush_denormal(True)  # numbers too small to matter make CPU arithmetic many times slower
        device = config.actors.device
        if device == "auto":
            device = "cuda" if spec.gpus and torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._spec, self._config = spec, config
        self._store = open_store(config.store_url, durable=config.store.durable)
        self._roles: dict[str, Any] = {}
        self._meter, self._times = ProcessMeter(spec.label), WorkTimes()

    def ready(self) -> dict[str, str | int]:
        """Where this process runs."""
        return {"label": self._spec.label, "host": socket.gethostname(), "pid": os.getpid()}

    def meeting_place(self) -> tuple[str, int]:
        """An address of this node and a port that this process holds, for the process group whose rank 0 it is."""
        import ray.util

        from learners.engine.rendezvous import listen  # here: it imports torch

        address = ray.util.get_node_ip_address()
        return address, listen(address)

    def call(self, role: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Forward a call to a role; Any is whatever the role's Protocol says."""
        facts = order_facts(arguments[0]) if arguments else {}
        with log_context(role=role, **facts), self._meter.call(role, method, arguments):
            began = time.monotonic()
            held = self._role(role)
            if method == "open" and role.startswith(LEARNERS):
                self._unload_models_that_draw_and_judge()
            answer = getattr(held, method)(*arguments)
            self._times.add(role.partition("-")[0], method, arguments, time.monotonic() - began)
            return answer

    def _role(self, name: str) -> Any:
        """A role of this process, built when it is first needed; Any: each has methods of its own."""
        if name not in self._roles:
            spec = next(spec for spec in self._spec.roles if spec.name == name)
            self._roles[name] = MAKERS[spec.kind](self)
        return self._roles[name]

    def _unload_models_that_draw_and_judge(self) -> None:
        """Free the models of samplers and judges here, as a learner is about to need the memory.

        They are loaded again when the next order needs them.
        """
        import torch

        for spec in self._spec.roles:
            if spec.kind in ("sampler", "judge") and spec.name in self._roles:
                self._roles[spec.name].unload()
        gc.collect()  # a pipeline's parts refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def work_times(self) -> dict[str, dict[str, float]]:
        """What every kind of work took since this was last asked."""
        return self._times.take()

    def make_sampler(self) -> Any:
        """A gallery sampler."""
        from actors.sampler import Sampler

        return Sampler(self._store, self._config.gallery, self._device)

    def make_judge(self) -> Any:
        """A judge."""
        from actors.judge import Judge

        return Judge(self._store, self._config, self._device, self._images)

    def make_roller(self) -> Any:
        """A roller."""
        from actors.rolled_network import LearnersNetwork, OwnNetwork
        from actors.roller import Roller
        from itercomp_rl.loop.member_counts import rollers_borrow
        from itercomp_rl.run.prompts_record import load_rolled_prompts

        policy, borrows = self._config.policy, rollers_borrow(self._config)
        learner = next((spec.name for spec in self._spec.roles if spec.kind == "policy_learner"), None)
        if borrows and learner is not None:
            return Roller(LearnersNetwork(lambda: self._role(learner), policy.max_policy_lag), policy)
        texts = load_rolled_prompts(self._store)
        own = OwnNetwork(self._store, policy, self._device, texts, encoded=self._encoded, as_learners=borrows)
        return Roller(own, policy)

    def make_reward_learner(self) -> Any:
        """One aspect's reward learner."""
        from learners.reward import RewardLearner

        config = self._config
        checkpoints = Path(config.run_folder) / "checkpoints"
        return RewardLearner(
            self._store, config.reward, config.judge, checkpoints, config.run.seed, self._device, self._images
        )

    def make_policy_learner(self) -> Any:
        """One rank of the policy learner."""
        from itercomp_rl.run.prompts_record import load_rolled_prompts
        from learners.policy import PolicyLearner

        config = self._config
        checkpoints = Path(config.run_folder) / "checkpoints"
        return PolicyLearner(
            self._store,
            config.policy,
            config.reward.trunk,
            checkpoints,
            config.run.seed,
            self._device,
            load_rolled_prompts(self._store),
            self._images,
            self._encoded,
        )

    @cached_property
    def _encoded(self) -> "EncodedPrompts":
        """The encoded prompts that all roles of this process share, with other processes of the node."""
        from itercomp_rl.diffusion.encoded import open_encoded_prompts

        return open_encoded_prompts()

    @cached_property
    def _images(self) -> "ImageLoader":
        """The image loader that all roles of this process share."""
        from itercomp_rl.store.image_cache import open_cache
        from itercomp_rl.store.image_loader import ImageLoader

        settings = self._config.store
        return ImageLoader(self._store, open_cache(settings.image_cache_gib), settings.image_memory_mib)


MAKERS: dict[str, Callable[[Worker], Any]] = {
    "sampler": Worker.make_sampler,
    "judge": Worker.make_judge,
    "roller": Worker.make_roller,
    "reward_learner": Worker.make_reward_learner,
    "policy_learner": Worker.make_policy_learner,
}


def _quiet_libraries() -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
