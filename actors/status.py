"""The driver reports on a run under way: its phase, how busy its roles are, and both in status.json."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.telemetry import RunMeter, put_again
from itercomp_rl.files.whole import write_whole
from itercomp_rl.loop.roles import Advance, Progress
from itercomp_rl.observability.logs import log_context

STATUS = "status.json"  # in the run folder: what the driver knew a moment ago


class MeteredProgress:
    """Satisfies loop.Progress."""

    def __init__(self, inner: Progress, meter: RunMeter) -> None:
        self._inner, self._meter = inner, meter

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        done = 0
        with log_context(round=round_, phase=name), self._inner.phase(name, total, round_) as inner:

            def advance(steps: int, metrics: Mapping[str, float]) -> None:
                nonlocal done
                done += steps
                self._meter.advanced(name, done, total, round_, metrics)
                inner(steps, metrics)

            self._meter.advanced(name, 0, total, round_, {})
            yield advance


async def keep_status(meter: RunMeter, folder: Path, every_s: float = 2.0) -> None:
    """Write status.json again and again, whole each time, until cancelled."""
    while True:
        with suppress(OSError):  # a disk full for a while: the run itself says so
            write_status(meter.tree(), folder)
        put_again()
        await asyncio.sleep(every_s)


async def keep_utilisation(
    meter: RunMeter, record: Callable[[Mapping[str, float]], None], every_s: float = 5.0
) -> None:
    """Tell `record` the metrics `utilisation/<role>` again and again until cancelled, and once more then."""

    def tell() -> None:
        record({f"utilisation/{role}": share for role, share in meter.shares().items()})

    try:
        while True:
            await asyncio.sleep(every_s)
            tell()
    finally:
        tell()


def write_status(tree: Mapping[str, Any], folder: Path) -> None:
    """Write status.json, whole."""
    write_whole(folder / STATUS, json.dumps(tree) + "\n")
