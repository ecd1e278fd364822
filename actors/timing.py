"""What every piece of work took, gathered from the processes as a run goes on; `itercomp plan --from RUN` reads it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from ray.exceptions import RayActorError

from actors.worker import WorkerHandle
from itercomp_rl.observability.work_times import FILE, WorkTimes, load_work


async def keep_times(handles: Mapping[str, WorkerHandle], folder: Path, every_s: float = 15.0) -> None:
    """Add to times.json again and again until cancelled, and once more then; a resumed run goes on counting."""
    found = load_work(folder)
    try:
        while True:
            await asyncio.sleep(every_s)
            await _gather(handles, found, folder)
    finally:
        await asyncio.wait_for(_gather(handles, found, folder), timeout=5.0)


async def _gather(handles: Mapping[str, WorkerHandle], found: WorkTimes, folder: Path) -> None:
    """A process answers once it has done what it was asked before; what one that died had not told is lost."""

    async def ask(handle: WorkerHandle) -> None:
        try:
            found.join(await handle.work_times.remote())
        except RayActorError:
            return

    await asyncio.gather(*(ask(handle) for handle in handles.values()))
    found.save(folder / FILE)
