"""How orders are dispatched: each once however many callers want it, many at a time, again if a process died."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from itercomp_rl.errors import WorkerDiedError
from itercomp_rl.loop.roles import Advance

log = logging.getLogger(__name__)

T = TypeVar("T")


class Orders:
    """Orders of one run. What is committed is not ordered, and what is under way is waited for, not ordered twice."""

    def __init__(self, is_done: Callable[[str, str], bool]) -> None:
        self._is_done = is_done
        self._under_way: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def once(
        self, kind: str, id_: str, work: Callable[[], Awaitable[None]], advance: Advance | None = None
    ) -> None:
        """Have the work done unless its commit is in the store."""
        if not self._is_done(kind, id_):
            await self._shared((kind, id_), work)
        if advance:
            advance(1, {})

    async def _shared(self, key: tuple[str, str], work: Callable[[], Awaitable[None]]) -> None:
        if key in self._under_way:
            await asyncio.shield(self._under_way[key])
            return
        outcome = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            await work()
            outcome.set_result(None)
        except Exception as error:
            outcome.set_exception(error)
            outcome.exception()  # seen, though nobody else may wait for it
            raise
        finally:
            outcome.cancel()  # no effect on one that has its result
            del self._under_way[key]


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it at once, results in order; the first failure cancels the rest and is raised as itself."""
    with one_reason():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    return [task.result() for task in tasks]


async def again(
    max_retries: int, work: Callable[[], Awaitable[T]], restart: Callable[[], Awaitable[None]] | None = None
) -> T:
    """Work that is begun anew if a process that held it died, at most `max_retries` times."""
    attempt = 0
    while True:
        try:
            if attempt and restart:
                await restart()
            return await work()
        except WorkerDiedError as error:
            if attempt == max_retries:
                raise
            log.warning("%s; trying again, %d of %d", error, attempt + 1, max_retries)
            await asyncio.sleep(min(30.0, 2.0**attempt))
            attempt += 1


@contextmanager
def one_reason() -> Iterator[None]:
    """Raises the first failure of a task group in place of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        reason: BaseException = group
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        raise reason from None
