"""Pools and the gate, with members that are local objects: who gets work when a process dies, and how a run ends."""

import asyncio
import os
import signal
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from actors.stopping import stop_on_sigterm
from actors.team import Gate, Limits, PolicyLearnerGroup, PooledRole, RemoteRole
from itercomp_rl.errors import StoppedError, StuckError, WorkerDiedError
from itercomp_rl.items import DrawOrder, ModelRef
from itercomp_rl.loop.roles import Team
from itercomp_rl.loop.worker_pool import WorkerPool


class Member:
    """Behaves as RemoteRole does, and is told when to die and when to be back."""

    def __init__(self, name: str, deaths: int = 0) -> None:
        self.name, self.deaths, self.calls = name, deaths, 0
        self.is_back = asyncio.Event()

    async def call(self, method: str, *arguments: Any) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        if self.deaths:
            self.deaths -= 1
            raise WorkerDiedError(f"{self.name} died while it had to {method}")
        return self.name

    async def back(self) -> None:
        await self.is_back.wait()


def pool_of(members: list[Member], max_retries: int) -> PooledRole:
    pool: Any = WorkerPool({"sampler": 0}, [{"sampler": member} for member in members])
    return PooledRole(pool, "sampler", max_retries, Gate())


def test_a_dead_member_gets_no_work_until_its_process_answers_again() -> None:
    async def story() -> None:
        dead, alive = Member("dead", deaths=1), Member("alive")
        pool = pool_of([dead, alive], max_retries=3)
        assert await pool.call("draw") == "alive"
        assert [await pool.call("draw") for _ in range(4)] == ["alive"] * 4
        assert dead.calls == 1
        dead.is_back.set()
        assert set(await asyncio.gather(pool.call("draw"), pool.call("draw"))) == {"dead", "alive"}

    asyncio.run(story())


def test_work_that_kills_every_process_is_given_up_after_its_retries() -> None:
    async def story() -> None:
        members = [Member(str(i), deaths=9) for i in range(2)]
        pool = pool_of(members, max_retries=1)
        with pytest.raises(WorkerDiedError, match="died while it had to draw"):
            await pool.call("draw")
        assert sum(member.calls for member in members) == 2

    asyncio.run(story())


def test_a_closed_gate_lets_work_under_way_end_and_nothing_begin() -> None:
    async def story() -> None:
        gate, ended = Gate(), []

        async def work(name: str, steps: int) -> None:
            async with gate.work():
                for _ in range(steps):
                    await asyncio.sleep(0)
                ended.append(name)

        first = asyncio.create_task(work("first", 20))
        await asyncio.sleep(0)
        gate.close()
        closing = asyncio.create_task(gate.quiet(of_learners=False))
        second = asyncio.create_task(work("second", 0))
        await closing
        assert ended == ["first"]
        await first
        await asyncio.sleep(0)
        assert not second.done()
        second.cancel()

    asyncio.run(story())


class Handle:
    """A worker's handle as Ray gives it, whose process answers, dies or hangs as told."""

    def __init__(self, does: str) -> None:
        self.does, self.pings = does, 0
        self.call = self.ready = self.meeting_place = self

    async def remote(self, *arguments: Any) -> str:
        if not arguments:
            self.pings += 1
            self.does = "answers" if self.pings == 2 else self.does
        if self.does == "dies":
            raise ActorDiedError()
        await asyncio.sleep(0 if self.does == "answers" else 60)
        return "done"


DRAW = DrawOrder(
    kind="images", id="a-00007", round=0, model=ModelRef(name="a", checkpoint="a", num_steps=1), prompts=(), seeds=()
)


def member(does: str, start_s: float = 60.0) -> RemoteRole:
    return RemoteRole(Handle(does), "worker-3", "sampler-1", Limits(start_s=start_s, progress_s=0.05))


def test_work_without_end_and_work_that_kills_are_named_with_role_and_process() -> None:
    with pytest.raises(
        StuckError, match=r"sampler-1 in process worker-3 has not finished 'draw images/a-00007' within"
    ):
        asyncio.run(member("hangs").call("draw", DRAW))
    with pytest.raises(WorkerDiedError, match="sampler-1 in process worker-3 died while it had to draw images/a-00007"):
        asyncio.run(member("dies").call("draw", DRAW))


def test_a_process_that_died_is_waited_for_until_it_answers_and_not_for_ever() -> None:
    async def story(start_s: float) -> int:
        dead = member("dies", start_s)
        with pytest.raises(WorkerDiedError):
            await dead.call("draw", DRAW)
        await dead.back()
        assert await dead.call("draw", DRAW) == "done"
        return dead.worker.pings

    assert asyncio.run(story(60.0)) == 2
    with pytest.raises(StuckError, match="process worker-3, which holds sampler-1, has not come back within"):
        asyncio.run(story(0.0))


def test_a_first_rank_that_is_gone_when_the_group_meets_is_a_death_and_so_tried_again() -> None:
    rank = member("dies")
    with pytest.raises(WorkerDiedError, match="died while it had to join"):
        asyncio.run(PolicyLearnerGroup([rank], "gloo", 60.0, Gate()).join())
    assert rank.is_lost


class Learner:
    """A learner that remembers what was under way when it was asked for a checkpoint."""

    def __init__(self, ended: list[str]) -> None:
        self.ended, self.kept = ended, None

    async def checkpoint(self) -> None:
        self.kept = list(self.ended)


def stopped(work_s: float, grace_s: float, *, of_learner: bool) -> tuple[str, list[str] | None]:
    """The run's last words when SIGTERM comes during work of `work_s`, and what was done at the checkpoint."""

    async def story() -> tuple[str, list[str] | None]:
        gate, ended = Gate(), []
        learner = Learner(ended)
        team = Team(sampler=None, judge=None, reward_learners={}, roller=None, policy_learner=learner)  # type: ignore[arg-type]

        async def work() -> None:
            async with gate.work(of_learner=of_learner):
                await asyncio.sleep(work_s)
                ended.append("work")

        under_way = asyncio.create_task(work())
        stopping = asyncio.create_task(stop_on_sigterm(team, gate, grace_s))
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError) as caught:
            await stopping
        under_way.cancel()
        return str(caught.value), learner.kept

    return asyncio.run(story())


def test_sigterm_waits_for_work_under_way_then_learners_keep_what_they_learned() -> None:
    said, kept = stopped(work_s=0.1, grace_s=30, of_learner=True)
    assert kept == ["work"]
    assert "committed or in a checkpoint. Go on with --resume" in said


def test_work_longer_than_the_grace_time_is_left_for_the_resumed_run() -> None:
    said, kept = stopped(work_s=30, grace_s=0.1, of_learner=True)
    assert kept is None
    assert "did not end within actors.grace_s (0.1 s)" in said


def test_learners_keep_what_they_learned_while_a_sampler_s_work_is_too_long_for_the_grace_time() -> None:
    said, kept = stopped(work_s=30, grace_s=0.2, of_learner=False)
    assert kept == []
    assert "did not end within actors.grace_s (0.2 s)" in said
