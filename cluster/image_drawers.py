"""Who draws a benchmark's images: this process, or sampler actors that hand them back."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError

from actors.worker import RoleSpec, WorkerHandle, WorkerSpec
from cluster.processes import places, start_workers
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import WorkerDiedError
from itercomp_rl.evaluation.t2i_compbench.samples import Drawer, Group
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.items import DrawOrder, ModelRef, Prompt
from itercomp_rl.store.kinds import EVALUATIONS
from itercomp_rl.store.store import open_store


def here(config: Config, ref: ModelRef, device: torch.device) -> Drawer:
    """Draws in this process, one group after the other."""

    gallery = Gallery(open_store(config.store_url, create=True), replace(config.gallery, max_loaded=1), device)

    def draw(groups: Sequence[Group]) -> Iterator[tuple[Group, NDArray[np.uint8]]]:
        for group in groups:
            yield group, gallery.draw_all(ref, [s.prompt for s in group], [s.seed for s in group])

    return draw


@contextmanager
def by_actors(config: Config, ref: ModelRef) -> Iterator[Drawer]:
    """Draws by sampler actors, each one group at a time."""
    open_store(config.store_url, create=True)
    with sampler_actors(config) as actors:

        def draw(groups: Sequence[Group]) -> Iterator[tuple[Group, NDArray[np.uint8]]]:
            orders = [
                DrawOrder(
                    kind=EVALUATIONS,
                    id=f"{ref.name}, images {group[0].number} to {group[-1].number}",
                    round=0,
                    model=ref,
                    prompts=tuple(Prompt(id=str(s.number), text=s.prompt) for s in group),
                    seeds=tuple(s.seed for s in group),
                )
                for group in groups
            ]
            for place, images in actors.draw(orders):
                yield groups[place], images

        yield draw


@contextmanager
def sampler_actors(config: Config) -> Iterator["SamplerActors"]:
    """`actors.samplers.count` processes over the config's store, for as long as this lasts; Ray must be up."""
    role = config.actors.samplers
    specs = [
        WorkerSpec(
            label=f"sampler-{i}", roles=(RoleSpec(kind="sampler", name="sampler-0"),), cpus=role.cpus, gpus=role.gpus
        )
        for i in range(role.count)
    ]
    with places(config, specs) as options:
        handles = start_workers(config, specs, options)
        try:
            yield SamplerActors(list(handles.values()), config.actors.max_retries)
        finally:
            for handle in handles.values():
                ray.kill(handle)


class SamplerActors:
    """Each draws one order at a time; an order whose process died goes to the next that is free."""

    def __init__(self, workers: Sequence[WorkerHandle], max_retries: int) -> None:
        self._workers, self._max_retries = workers, max_retries

    def draw(self, orders: Sequence[DrawOrder]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The place of each order with its images [N, H, W, 3], as they are done.

        Raises: what drawing raised; WorkerDiedError if the processes of one order died time and again.
        """
        todo, idle = deque((place, 0) for place in range(len(orders))), deque(self._workers)
        running: dict[Any, tuple[WorkerHandle, int, int]] = {}  # Any: Ray's references to results
        while todo or running:
            while todo and idle:
                worker, (place, deaths) = idle.popleft(), todo.popleft()
                call = worker.call.remote("sampler-0", "images", (orders[place],))
                running[call] = worker, place, deaths
            (done,), _ = ray.wait(list(running), num_returns=1)
            worker, place, deaths = running.pop(done)
            idle.append(worker)
            images = _images(done)
            if images is not None:
                yield place, images
            elif deaths < self._max_retries:
                todo.append((place, deaths + 1))
            else:
                raise WorkerDiedError(f"the processes that had to draw {orders[place].id} died {deaths + 1} times")


def _images(done: Any) -> NDArray[np.uint8] | None:
    """What was drawn, None if the process died meanwhile."""
    try:
        return ray.get(done)
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError:
        return None
