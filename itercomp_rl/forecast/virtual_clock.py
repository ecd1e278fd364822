"""An event loop for simulations: nothing is waited for, its clock jumps from one thing that happens to the next."""

import asyncio
import selectors


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while there is something to do, and then jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumps(self))

    def time(self) -> float:
        return self.now

    async def until(self, when: float) -> None:
        """Wait for a moment; cheaper than asyncio.sleep, of which a large run needs a million."""
        moment = self.create_future()
        self.call_at(when, _set, moment)
        await moment


def _set(moment: asyncio.Future[None]) -> None:
    if not moment.done():
        moment.set_result(None)


class _Jumps(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "the simulated run waits for something that nobody will do"
        self._loop.now += max(0.0, timeout)
        return []
