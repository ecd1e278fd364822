"""The ranks of one group answer together, or the one that died is told at once."""

import asyncio

import pytest

from actors.team import _of_all
from itercomp_rl.errors import WorkerDiedError


def test_a_dead_rank_is_the_reason_before_the_others_answer() -> None:
    async def go() -> None:
        dead, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
        dead.set_exception(WorkerDiedError("rank 0 belongs to no group"))
        with pytest.raises(WorkerDiedError, match="no group"):
            await asyncio.wait_for(_of_all([waiting, dead]), 5)
        assert waiting.cancelled()

    asyncio.run(go())


def test_answers_come_in_the_order_of_the_ranks() -> None:
    async def answer(value: int) -> int:
        await asyncio.sleep(0.01 * (3 - value))
        return value

    async def go() -> list[int]:
        return await _of_all([asyncio.ensure_future(answer(value)) for value in range(3)])

    assert asyncio.run(go()) == [0, 1, 2]
