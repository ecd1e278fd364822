"""A whole run in one process: the real loop, plan, store and roles, with objects where a cluster has processes.

A process that is killed forgets all it held; so an object that dies here is dropped, and made anew when next asked.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from actors.judge import Judge
from actors.rolled_network import LearnersNetwork, OwnNetwork, RolledNetwork
from actors.roller import Roller
from actors.sampler import Sampler
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import WorkerDiedError
from itercomp_rl.items import (
    DrawOrder,
    MeasureOrder,
    PolicyOrder,
    ProbeOrder,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)
from itercomp_rl.loop.roles import Advance, Team
from itercomp_rl.loop.rounds import run_rounds
from itercomp_rl.plan import Plan
from itercomp_rl.run.ledger import StoreLedger
from itercomp_rl.store.image_cache import ImageCache
from itercomp_rl.store.image_loader import ImageLoader
from itercomp_rl.store.store import Store
from learners.engine.spec import Group
from learners.policy import PolicyLearner
from learners.reward import RewardLearner

CPU = torch.device("cpu")
ALONE = Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend="gloo")
SETTINGS = (
    *("run.rounds=2", "run.name=run", "store.durable=false", "prompts.gallery=24", "prompts.policy=8"),
    *("prompts.aspects=[attribute,spatial]", "gallery.segment=12", "judge.margin=0"),
    # Founders far apart, so that there are pairs.
    *("gallery.members.base.num_steps=1", "gallery.members.spatial.num_steps=4"),
    *("gallery.members.attribute.num_steps=1", "gallery.members.attribute.join_round=1"),
    *("reward.updates=4", "reward.batch=4", "reward.min_accuracy=0", "reward.checkpoint_every=2"),
    *("policy.num_steps=3", "policy.mid_low=1", "policy.mid_high=2", "policy.updates=3", "policy.batch=4"),
    *("policy.rollout_batch=2", "policy.checkpoint_every=1", "policy.pretraining_batch=2"),
    *("policy.engine.kind=plain", "policy.engine.zero_stage=0", "policy.engine.lr=1e-3", "policy.engine.ema=0.5"),
    *("evaluation.images_per_aspect=2", "evaluation.seen_images_per_aspect=0", "evaluation.denoising_images=4"),
    *("evaluation.max_drop=null", "actors.policy_learners.count=1"),
)


def small_config(folder: Path, *overrides: str) -> Config:
    """Two rounds of all there is, as small as can be; `attribute` joins in the second, so that it is drawn ahead."""
    return load_config("tiny", [f"run.dir={folder}", *SETTINGS, *overrides])


class DriverKilledError(Exception):
    """The driver was killed, and with it everything."""


class _Killed(BaseException):
    """Unwinds a role's call as a kill would: nothing of ours catches it."""


@dataclass(kw_only=True)
class Kill:
    """Kill(role="sampler", moment="gallery", how="writing", nth=1): in the second call of a sampler in that moment.

    how: before the call's work | writing: its data are written, the marker not | after: done, but nobody heard of it.
    A role that has nothing to do in the moment is killed idle, at the moment's end. Role "driver" dies in any call.
    """

    role: str
    moment: str
    how: str
    nth: int = 0
    seen: int = 0
    done: bool = False

    def is_due(self, role: str, moment: str) -> bool:
        """Whether this very call is the one; asked once per call."""
        if self.done or moment != self.moment or self.role not in (role, "driver"):
            return False
        self.seen += 1
        self.done = self.seen > self.nth
        return self.done


class Process:
    """Holds one role, as a worker process does."""

    def __init__(self, role: str, run: "OneProcessRun", make: Callable[[Store], Any]) -> None:
        self.role, self.run, self._make = role, run, make
        self._store = replace(run.store, clock=self._clock)
        self._held: Any = None
        self._clock_calls: int | None = None  # left until death; a publication asks the time as it begins and ends

    @property
    def held(self) -> Any:
        """The role itself, made again after a death; Any: each has methods of its own."""
        if self._held is None:
            self._held = self._make(self._store)
        return self._held

    def forget(self) -> None:
        """Die idle."""
        self._held = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """What the role answers. Raises: WorkerDiedError."""
        for _ in range(self.run.random.randrange(4)):
            await asyncio.sleep(0)
        kill = self.run.kill_of(self.role)
        try:
            found = self._work(method, arguments, kill)
        except _Killed:
            self.forget()
            if kill is not None and kill.role == "driver":
                raise DriverKilledError from None
            raise WorkerDiedError(f"{self.role} died while it had to {method}") from None
        finally:
            self._clock_calls = None
        return found

    def _work(self, method: str, arguments: tuple[Any, ...], kill: Kill | None) -> Any:
        held = self.held
        if kill is not None and kill.how == "before":
            raise _Killed
        if arguments and isinstance(arguments[0], DrawOrder) and self.run.kills_sampler(arguments[0]):
            raise _Killed
        self._clock_calls = 2 if kill is not None and kill.how == "writing" else None
        found = getattr(held, method)(*arguments)
        if kill is not None:
            raise _Killed
        return found

    def _clock(self) -> float:
        if self._clock_calls is not None:
            self._clock_calls -= 1
            if not self._clock_calls:
                raise _Killed
        return time.time()


class OneProcessRun:
    """One life of a driver with its processes; `folder` and store outlive it. Satisfies loop.Progress too."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        kills: Sequence[Kill] = (),
        samplers: int = 1,
        seed: int = 0,
        deadly: Collection[tuple[str, str]] = (),
        network: str = "own",
    ) -> None:
        """deadly: (model, prompt id) that no sampler survives.

        network: what the roller denoises with: its own | "in learners' order" | "borrowed" from the policy learner.
        """
        self.deadly = set(deadly)
        self.config, self.store, self.kills, self.plan = config, store, kills, Plan(config=config)
        self.random, self.moment = random.Random(seed), ""
        checkpoints = config.run_folder / "checkpoints"
        gallery, reward, policy = config.gallery, config.reward, config.policy
        seed_, texts = config.run.seed, self.plan.rolled_prompts

        def images(store: Store) -> ImageLoader:
            return ImageLoader(store, ImageCache(config.run_folder / "kept images", 2**26))

        self.samplers = [Process("sampler", self, lambda s: Sampler(s, gallery, CPU)) for _ in range(samplers)]
        self.judge = Process("judge", self, lambda s: Judge(s, config, CPU, images(s)))

        def rolled_network(store: Store) -> RolledNetwork:
            if network == "borrowed":
                return LearnersNetwork(lambda: self.policy.held, policy.max_policy_lag)
            return OwnNetwork(store, policy, CPU, texts, as_learners=network == "in learners' order")

        self.roller = Process("roller", self, lambda s: Roller(rolled_network(s), policy))
        self.rewards = {
            aspect: Process(
                "reward_learner",
                self,
                lambda s: RewardLearner(s, reward, config.judge, checkpoints, seed_, CPU, images(s)),
            )
            for aspect in config.prompts.aspects
        }
        self.policy = Process(
            "policy_learner",
            self,
            lambda s: PolicyLearner(s, policy, reward.trunk, checkpoints, seed_, CPU, texts, images(s)),
        )

    @property
    def processes(self) -> list[Process]:
        return [*self.samplers, self.judge, self.roller, *self.rewards.values(), self.policy]

    def go(self) -> None:
        """Run to the end. Raises: DriverKilledError, and whatever ends a run."""
        asyncio.run(self._go())

    async def _go(self) -> None:
        await self.policy.call("join", ALONE)
        team = Team(
            sampler=Samplers(self.samplers),
            judge=OneJudge(self.judge),
            reward_learners={aspect: OneRewardLearner(process) for aspect, process in self.rewards.items()},
            roller=OneRoller(self.roller),
            policy_learner=OnePolicyLearner(self.policy),
        )
        await run_rounds(self.plan, team, StoreLedger(self.store, self.plan), self)

    def kill_of(self, role: str) -> Kill | None:
        """The kill that is due in the call that begins."""
        return next((kill for kill in self.kills if kill.is_due(role, self.moment)), None)

    def kills_sampler(self, order: DrawOrder) -> bool:
        rows = [prompt for row, prompt in enumerate(order.prompts) if row not in order.skipped]
        return any((order.model.name, prompt.id) in self.deadly for prompt in rows)

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        before, self.moment = self.moment, "second round" if round_ else name
        yield lambda steps, metrics: None
        for kill in self.kills:
            if not kill.done and kill.moment == self.moment and kill.role != "driver" and not kill.seen:
                kill.done = True
                for process in self.processes:
                    if process.role == kill.role:
                        process.forget()
        self.moment = before


class Samplers:
    """Satisfies roles.Sampler; whichever is drawn by lot does it, the next one if it dies."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    async def draw(self, order: DrawOrder) -> None:
        await _tried("draw", order, self._processes)

    async def measure(self, order: MeasureOrder) -> None:
        await _tried("measure", order, self._processes)

    async def try_drawing(self, order: DrawOrder) -> None:
        await _tried("try_drawing", order, self._processes)


async def _tried(method: str, order: Any, processes: Sequence[Process]) -> Any:
    for _ in range(2):
        try:
            return await processes[0].run.random.choice(processes).call(method, order)
        except WorkerDiedError:
            continue
    return await processes[0].call(method, order)


class OneJudge:
    """Satisfies roles.Judge."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def rank(self, order: RankOrder) -> None:
        await _tried("rank", order, [self._process])

    async def grade(self, segment: str) -> None:
        await _tried("grade", segment, [self._process])

    async def grade_probe(self, order: ProbeOrder) -> None:
        await _tried("grade_probe", order, [self._process])


class OneRoller:
    """Satisfies roles.Roller."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def roll(self, order: RolloutOrder) -> Rollout:
        return await _tried("roll", order, [self._process])


class OneRewardLearner:
    """Satisfies roles.RewardLearner."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def open(self, order: RewardOrder) -> int:
        return await self._process.call("open", order)

    async def add(self, rankings: tuple[str, ...]) -> None:
        await self._process.call("add", rankings)

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        return await self._process.call("advance", num_updates)

    async def publish_live(self, live_role: str) -> RewardReport:
        return await self._process.call("publish_live", live_role)

    async def checkpoint(self) -> None:
        await self._process.call("checkpoint")

    async def publish(self) -> RewardReport:
        return await self._process.call("publish")


class OnePolicyLearner:
    """Satisfies roles.PolicyLearner; one that was killed belongs to no group until `restart`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def open(self, order: PolicyOrder) -> int:
        return await self._process.call("open", order)

    async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
        return await self._process.call("update", number, rollouts)

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        await self._process.call("take_rewards", rewards)

    async def checkpoint(self) -> None:
        await self._process.call("checkpoint")

    async def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        await self._process.call("publish", rewards, kept)

    async def restart(self) -> None:
        self._process.forget()
        await self._process.call("join", ALONE)
