"""What processes counted is gathered, added up, and survives the death of one of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError

from actors.timing import keep_times
from itercomp_rl.observability.work_times import FILE, WorkTimes


class Process:
    """Answers as the handle of a worker does; what it counted, it tells once."""

    def __init__(self, is_dead: bool = False) -> None:
        self.times, self.is_dead, self.work_times = WorkTimes(), is_dead, self

    async def remote(self) -> dict[str, dict[str, float]]:
        if self.is_dead:
            raise RayActorError
        return self.times.take()


def test_times_are_kept_as_a_run_goes_on_and_once_more_at_its_end(tmp_path: Path) -> None:
    processes: dict[str, Any] = {"a": Process(), "b": Process(), "dead": Process(is_dead=True)}

    async def run() -> None:
        keeper = asyncio.create_task(keep_times(processes, tmp_path, every_s=0.01))
        processes["a"].times.add("roller", "roll", (None,), 2.0)
        while not (tmp_path / FILE).exists():
            await asyncio.sleep(0.01)
        processes["b"].times.add("roller", "roll", (None,), 4.0)
        keeper.cancel()
        await asyncio.wait([keeper])

    asyncio.run(run())
    assert json.loads((tmp_path / FILE).read_text()) == {"roller.roll": {"calls": 2, "items": 2, "seconds": 6.0}}
