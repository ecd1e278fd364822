"""The loop's view of the processes: each role as one object, however many processes stand behind it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.worker import WorkerHandle
from itercomp_rl.errors import StuckError, WorkerDiedError
from itercomp_rl.items import (
    DrawOrder,
    MeasureOrder,
    PolicyOrder,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)
from itercomp_rl.loop import again, together
from learners.engine import Group

log = logging.getLogger(__name__)


class RemoteRole:
    """One role in one process."""

    def __init__(self, worker: WorkerHandle, label: str, role: str, timeout_s: float) -> None:
        self.worker, self.label, self.role = worker, label, role
        self._timeout_s = timeout_s

    async def call(self, method: str, *arguments: Any) -> Any:  # Any: as the role's Protocol says
        """What the role's method returns or raises.

        Raises: WorkerDiedError if its process died; StuckError if it takes longer than actors.progress_timeout_s.
        """
        who = f"{self.role} in process {self.label}"
        try:
            return await asyncio.wait_for(self.worker.call.remote(self.role, method, arguments), self._timeout_s)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            raise WorkerDiedError(f"{who} died while it had to {method}") from error
        except TimeoutError as error:
            raise StuckError(
                f"{who} has not finished {method!r} within actors.progress_timeout_s ({self._timeout_s:g} s): "
                "look at its log, or raise the limit if the work is really that long"
            ) from error


class Pool:
    """Members that can stand in for each other: work goes to an idle one, and to another if a process dies."""

    def __init__(self, members: Sequence[RemoteRole], max_retries: int) -> None:
        self._idle: asyncio.Queue[RemoteRole] = asyncio.Queue()
        for member in members:
            self._idle.put_nowait(member)
        self._max_retries = max_retries

    async def call(self, method: str, *arguments: Any) -> Any:  # Any: as the role's Protocol says
        """Waits for an idle member, so no more work is under way than there are members."""

        async def once() -> Any:
            member = await self._idle.get()
            try:
                return await member.call(method, *arguments)
            finally:
                self._idle.put_nowait(member)

        return await again(self._max_retries, once)


class SamplerPool(Pool):
    """Satisfies roles.Sampler."""

    async def draw(self, order: DrawOrder) -> None:
        await self.call("draw", order)

    async def measure(self, order: MeasureOrder) -> None:
        await self.call("measure", order)


class JudgePool(Pool):
    """Satisfies roles.Judge."""

    async def rank(self, order: RankOrder) -> None:
        await self.call("rank", order)

    async def grade(self, segment: str) -> None:
        await self.call("grade", segment)


class RollerPool(Pool):
    """Satisfies roles.Roller."""

    async def roll(self, order: RolloutOrder) -> Rollout:
        return await self.call("roll", order)


class RemoteRewardLearner:
    """Satisfies roles.RewardLearner; its state lives in one process, so the loop begins anew if that dies."""

    def __init__(self, role: RemoteRole) -> None:
        self._role = role

    async def open(self, order: RewardOrder) -> None:
        await self._role.call("open", order)

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        return await self._role.call("advance", num_updates)

    async def publish(self) -> RewardReport:
        return await self._role.call("publish")


class PolicyLearnerGroup:
    """Satisfies roles.PolicyLearner: every call goes to all ranks at once; if one dies, all are rebuilt."""

    def __init__(self, ranks: Sequence[RemoteRole], backend: str, timeout_s: float) -> None:
        self._ranks, self._backend, self._timeout_s = ranks, backend, timeout_s

    async def join(self) -> None:
        """Give every rank its place in a new process group."""
        address, port = await self._ranks[0].worker.free_address.remote()
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
        found = await self._all("update", number, list(rollouts))
        names = dict.fromkeys(name for metrics in found for name in metrics)
        return {name: fmean(metrics[name] for metrics in found if name in metrics) for name in names}

    async def publish(self) -> None:
        await self._all("publish")

    async def restart(self) -> None:
        """Kill every rank's process, wait until Ray has brought them back, and join anew."""
        for role in self._ranks:
            ray.kill(role.worker, no_restart=False)
        for role in self._ranks:
            await _answers(role)
        await self.join()

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        found = await asyncio.gather(*(role.call(method, *arguments) for role in self._ranks), return_exceptions=True)
        failures = [result for result in found if isinstance(result, BaseException)]
        # A dead rank makes the others fail in their collectives: its death is the reason, theirs are echoes.
        for failure in sorted(failures, key=lambda failure: not isinstance(failure, WorkerDiedError)):
            raise failure
        return found


async def _answers(role: RemoteRole) -> None:
    for _ in range(120):
        try:
            await role.worker.ready.remote()
            return
        except RayActorError:
            await asyncio.sleep(1.0)
    raise StuckError(f"process {role.label} has not come back two minutes after it was restarted")
