"""Which rankings of a round are there by now: what reward learners that begin early wait for."""

import asyncio
import math
from collections.abc import Sequence


class Arrivals:
    """Rankings of one round are put here as they are committed; learners wait for a number or a share of them."""

    def __init__(self, expected: Sequence[str]) -> None:
        self._expected = tuple(expected)
        self._there: set[str] = set()
        self._came = asyncio.Condition()

    async def put(self, id_: str) -> None:
        """This ranking is committed."""
        async with self._came:
            self._there.add(id_)
            self._came.notify_all()

    def there(self) -> tuple[str, ...]:
        """Those that are committed, in the order of the plan."""
        return tuple(id_ for id_ in self._expected if id_ in self._there)

    async def reach(self, num: int) -> None:
        """Return once so many are there."""
        async with self._came:
            await self._came.wait_for(lambda: len(self._there) >= num)

    async def reach_share(self, part: int, whole: int) -> None:
        """Return once at least part / whole of all are there."""
        await self.reach(math.ceil(len(self._expected) * part / whole))

    async def complete(self) -> None:
        """Return once all are there."""
        await self.reach(len(self._expected))
