"""The ranks of one group answer together, or the one that died is told at once."""

import asyncio

import pytest

from actors import team
from actors.team import _of_all
from itercomp_rl.errors import StoreError, WorkerDiedError


@pytest.mark.parametrize("error", [WorkerDiedError("rank 0 belongs to no group"), StoreError("the disk is full")])
def test_a_rank_that_is_dead_or_fails_in_our_own_words_is_the_reason_while_the_others_wait(error: Exception) -> None:
    async def go() -> None:
        failed, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
        failed.set_exception(error)
        with pytest.raises(type(error), match=str(error)):
            await asyncio.wait_for(_of_all([waiting, failed]), 5)
        assert waiting.cancelled()

    asyncio.run(go())


def test_of_two_reasons_a_death_is_told() -> None:
    async def go(errors: list[Exception]) -> None:
        calls = [asyncio.get_running_loop().create_future() for _ in errors]
        for call, error in zip(calls, errors, strict=True):
            call.set_exception(error)
        with pytest.raises(WorkerDiedError, match="rank 1 died"):
            await _of_all(calls)

    errors = [StoreError("the disk is full"), WorkerDiedError("rank 1 died")]
    for _ in range(10):  # what is done comes as a set
        asyncio.run(go(errors))
        asyncio.run(go(errors[::-1]))


def test_an_error_that_a_lost_peer_may_cause_gives_way_to_that_peers_death(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go(is_dead: bool) -> None:
        failed, other = (asyncio.get_running_loop().create_future() for _ in range(2))
        failed.set_exception(RuntimeError("connection closed by peer"))
        if is_dead:
            asyncio.get_running_loop().call_later(0.05, other.set_exception, WorkerDiedError("rank 1 died"))
        await asyncio.wait_for(_of_all([failed, other]), 5)

    monkeypatch.setattr(team, "DEATH_TOLD_S", 0.5)
    with pytest.raises(WorkerDiedError, match="rank 1 died"):
        asyncio.run(go(is_dead=True))
    with pytest.raises(RuntimeError, match="closed by peer"):
        asyncio.run(go(is_dead=False))


def test_answers_come_in_the_order_of_the_ranks() -> None:
    async def answer(value: int) -> int:
        await asyncio.sleep(0.01 * (3 - value))
        return value

    async def go() -> list[int]:
        return await _of_all([asyncio.ensure_future(answer(value)) for value in range(3)])

    assert asyncio.run(go()) == [0, 1, 2]
