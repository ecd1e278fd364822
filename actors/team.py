"""The loop's view of the processes: each role as one object, however many processes stand behind it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from actors.telemetry import RunMeter
from actors.worker import WorkerHandle
from itercomp_rl.errors import IterCompError, StuckError, WorkerDiedError
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
from itercomp_rl.loop.dispatch import again, together
from itercomp_rl.loop.worker_pool import WorkerPool
from learners.engine.spec import Group

log = logging.getLogger(__name__)


DEATHS = 3  # of samplers over one piece of work, after which its prompts are tried one by one

DEATH_TOLD_S = 60.0  # within which Ray says that a node is gone

KILLED_S = 1.0  # a process that was just killed may answer once more


class Gate:
    """All work of a run passes here: it is counted, and can be ended without breaking off what is under way."""

    def __init__(self, meter: RunMeter | None = None) -> None:
        self._meter = meter
        self._under_way = Counter[bool]()  # whether learners do it: how many calls
        self._is_closed = False
        self._ended = asyncio.Condition()

    def order(self, kind: str, members: int = 1) -> AbstractContextManager[None]:
        """Around one order of the loop, from when it is given until it is done, its wait for a member included.

        Args: members: how many members of the role work on it together.
        """
        return self._meter.order(kind, members) if self._meter else nullcontext()

    @asynccontextmanager
    async def work(self, *, of_learner: bool = False) -> AsyncIterator[None]:
        """Around one call; past a closed gate nothing comes, and who waits there ends with the run."""
        if self._is_closed:
            await asyncio.Event().wait()
        self._under_way[of_learner] += 1
        try:
            yield
        finally:
            self._under_way[of_learner] -= 1
            if self._is_closed:
                async with self._ended:
                    self._ended.notify_all()

    def close(self) -> None:
        """Let nothing new begin."""
        self._is_closed = True

    async def quiet(self, *, of_learners: bool) -> None:
        """Return once nothing is under way at the learners, or at all others."""
        async with self._ended:
            await self._ended.wait_for(lambda: not self._under_way[of_learners])


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a process may take: Limits(start_s=180.0, progress_s=900.0)."""

    start_s: float
    progress_s: float


class RemoteRole:
    """One role in one process."""

    def __init__(self, worker: WorkerHandle, label: str, role: str, limits: Limits) -> None:
        self.worker, self.label, self.role = worker, label, role
        self._limits = limits
        self.is_lost = False  # died, and has not answered since

    async def back(self) -> None:
        """Return once a process that died answers again, started anew where its node died with it.

        Raises: StuckError if it has not come back within actors.start_timeout_s.
        """
        began = time.monotonic()
        while self.is_lost:
            try:
                await asyncio.wait_for(self.worker.ready.remote(), self._limits.progress_s)
                self.is_lost = False
            except (RayActorError, TimeoutError) as error:
                if time.monotonic() - began > self._limits.start_s:
                    raise StuckError(
                        f"process {self.label}, which holds {self.role}, has not come back within "
                        f"actors.start_timeout_s ({self._limits.start_s:g} s): no node has room for it, or it dies as "
                        "it starts; look at its log"
                    ) from error
                await asyncio.sleep(0.5)

    async def call(self, method: str, *arguments: Any) -> Any:  # Any: as the role's Protocol says
        """What the role's method returns or raises.

        Raises: WorkerDiedError if its process died; StuckError if it takes longer than actors.progress_timeout_s.
        """
        who, limit_s = f"{self.role} in process {self.label}", self._limits.progress_s
        what = _named(method, arguments)
        try:
            return await asyncio.wait_for(self.worker.call.remote(self.role, method, arguments), limit_s)
        except RayTaskError as error:
            raise error.cause from error
        except (RayActorError, ObjectLostError, OutOfMemoryError) as error:
            # An answer that lay in the memory of a node that is gone is lost with it, as is a call that Ray killed.
            self.is_lost = True
            raise WorkerDiedError(f"{who} died while it had to {what}") from error
        except TimeoutError as error:
            raise StuckError(
                f"{who} has not finished {what!r} within actors.progress_timeout_s ({limit_s:g} s): "
                "look at its log, or raise the limit if the work is really that long"
            ) from error


def _named(method: str, arguments: tuple[Any, ...]) -> str:
    """What was asked: `draw images/base-00003`, `roll 17`."""
    order = arguments[0] if arguments else None
    if isinstance(order, DrawOrder):
        return f"{method} {order.kind}/{order.id}"
    if isinstance(order, RankOrder | ProbeOrder):
        return f"{method} {order.id}"
    if isinstance(order, RolloutOrder):
        return f"{method} {order.index}"
    return f"{method} {order}" if isinstance(order, int | str) else method


class PooledRole:
    """Members that can stand in for each other: work goes to an idle one, and to another if a process dies."""

    def __init__(self, pool: WorkerPool[RemoteRole], kind: str, max_retries: int, gate: Gate) -> None:
        self._pool, self._kind = pool, kind
        self._max_retries, self._gate = max_retries, gate
        self._returning: set[asyncio.Task[None]] = set()

    async def call(self, method: str, *arguments: Any) -> Any:  # Any: as the role's Protocol says
        """Waits for an idle member, so no more work is under way than there are members."""

        async def once() -> Any:
            member = await self._pool.get(self._kind)
            try:
                async with self._gate.work():
                    found = await member.call(method, *arguments)
            except WorkerDiedError:
                self._later(member)
                raise
            except BaseException:
                self._pool.put(self._kind, member)
                raise
            self._pool.put(self._kind, member)
            return found

        with self._gate.order(self._kind):
            return await again(self._max_retries, once)

    def _later(self, member: RemoteRole) -> None:
        """The member is idle again once its new process answers; until then others take its work."""

        async def come_back() -> None:
            try:
                await member.back()
            except StuckError as error:
                log.warning("%s", error)
            self._pool.put(self._kind, member)  # one that does not answer fails the next order it gets, by name

        task = asyncio.create_task(come_back())
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)


class SamplerPool(PooledRole):
    """Satisfies roles.Sampler."""

    def __init__(self, pool: WorkerPool[RemoteRole], kind: str, max_retries: int, gate: Gate) -> None:
        super().__init__(pool, kind, min(max_retries, DEATHS - 1), gate)

    async def draw(self, order: DrawOrder) -> None:
        await self.call("draw", order)

    async def measure(self, order: MeasureOrder) -> None:
        await self.call("measure", order)

    async def try_drawing(self, order: DrawOrder) -> None:
        await self.call("try_drawing", order)


class JudgePool(PooledRole):
    """Satisfies roles.Judge."""

    async def rank(self, order: RankOrder) -> None:
        await self.call("rank", order)

    async def grade(self, segment: str) -> None:
        await self.call("grade", segment)

    async def grade_probe(self, order: ProbeOrder) -> None:
        await self.call("grade_probe", order)


class RollerPool(PooledRole):
    """Satisfies roles.Roller."""

    async def roll(self, order: RolloutOrder) -> Rollout:
        return await self.call("roll", order)


class RemoteRewardLearner:
    """Satisfies roles.RewardLearner; its state lives in one process, so the loop begins anew if that dies."""

    def __init__(self, role: RemoteRole, gate: Gate) -> None:
        self._role, self._gate = role, gate

    async def open(self, order: RewardOrder) -> int:
        with self._gate.order("reward_learner"):
            await self._role.back()
            async with self._gate.work(of_learner=True):
                return await self._role.call("open", order)

    async def add(self, rankings: tuple[str, ...]) -> None:
        await self._call("add", rankings)

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        return await self._call("advance", num_updates)

    async def publish_live(self, live_role: str) -> RewardReport:
        return await self._call("publish_live", live_role)

    async def checkpoint(self) -> None:
        with self._gate.order("reward_learner"):
            await self._role.call("checkpoint")  # past a closed gate too: it is the last thing before the end

    async def publish(self) -> RewardReport:
        return await self._call("publish")

    async def _call(self, method: str, *arguments: Any) -> Any:  # Any: as the role's Protocol says
        with self._gate.order("reward_learner"):
            async with self._gate.work(of_learner=True):
                return await self._role.call(method, *arguments)


class PolicyLearnerGroup:
    """Satisfies roles.PolicyLearner: calls go to all ranks at once; if one dies, all are rebuilt."""

    def __init__(self, ranks: Sequence[RemoteRole], backend: str, timeout_s: float, gate: Gate) -> None:
        self._ranks, self._backend, self._timeout_s, self._gate = ranks, backend, timeout_s, gate

    async def join(self) -> None:
        """Give every rank its place in a new process group."""
        await together(role.back() for role in self._ranks)
        first = self._ranks[0]
        address, port = "", 0
        if len(self._ranks) > 1:
            try:
                address, port = await first.worker.meeting_place.remote()
            except RayActorError as error:
                first.is_lost = True
                raise WorkerDiedError(f"{first.role} in process {first.label} died while it had to join") from error
        groups = [
            Group(
                rank=rank,
                world_size=len(self._ranks),
                master_addr=address,
                master_port=port,
                timeout_s=self._timeout_s,
                backend=self._backend,  # type: ignore[arg-type]  # gloo or nccl, by device
            )
            for rank in range(len(self._ranks))
        ]
        await together(role.call("join", group) for role, group in zip(self._ranks, groups, strict=True))

    async def open(self, order: PolicyOrder) -> int:
        return (await self._all("open", order))[0]

    async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
        num = len(self._ranks)
        found = await self._each("update", [(number, list(rollouts[rank::num]), len(rollouts)) for rank in range(num)])
        names = dict.fromkeys(name for metrics in found for name in metrics)
        return {name: fmean(metrics[name] for metrics in found if name in metrics) for name in names}

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        await self._all("take_rewards", dict(rewards))

    async def checkpoint(self) -> None:
        await self._all("checkpoint", is_last=True)

    async def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        await self._all("publish", dict(rewards), kept)

    async def restart(self) -> None:
        """Kill every rank's process, wait until Ray has brought them back, and join anew."""
        for role in self._ranks:
            role.is_lost = True
            ray.kill(role.worker, no_restart=False)
        await asyncio.sleep(KILLED_S)
        await self.join()

    async def _all(self, method: str, *arguments: Any, is_last: bool = False) -> list[Any]:
        return await self._each(method, [arguments] * len(self._ranks), is_last=is_last)

    async def _each(self, method: str, arguments: Sequence[tuple[Any, ...]], *, is_last: bool = False) -> list[Any]:
        """Through the gate as one: it must not close between two ranks, of which one would then wait for the other."""
        with self._gate.order("policy_learner", len(self._ranks)):
            async with nullcontext() if is_last else self._gate.work(of_learner=True):
                calls = zip(self._ranks, arguments, strict=True)
                return await _of_all([asyncio.ensure_future(role.call(method, *own)) for role, own in calls])


async def _of_all(calls: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """What every rank returns, or the reason why one does not: the others may wait for it, so nobody waits for them.

    An error of this project's own is the reason at once, a death before all else. Any other may come of a lost peer,
    whose death is the better reason, and is told within `DEATH_TOLD_S`.
    """
    waiting, limit_s = set(calls), None
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if known := [call for call in done if isinstance(call.exception(), IterCompError)]:
                max(known, key=lambda call: isinstance(call.exception(), WorkerDiedError)).result()  # raises
            if not done:
                break
            if limit_s is None and any(call.exception() for call in done):
                limit_s = DEATH_TOLD_S
        for call in calls:
            if call.done():
                call.result()
        return [call.result() for call in calls]
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
