"""A prompt that kills its sampler again and again is found, named and set aside, so that a run need not end for it."""

import logging
from dataclasses import replace

from itercomp_rl.errors import WorkerDiedError
from itercomp_rl.items import DrawOrder
from itercomp_rl.loop.roles import Sampler

log = logging.getLogger(__name__)


class Draws:
    """Orders of images to a sampler; `most` prompts in all may be set aside before the run ends instead."""

    def __init__(self, sampler: Sampler, most: int) -> None:
        self._sampler, self._most = sampler, most
        self._aside = 0

    async def draw(self, order: DrawOrder) -> None:
        """The order's images, without those of the prompts that no process survives.

        Raises: WorkerDiedError if too many are such, or none is and the order is not survived all the same.
        """
        try:
            await self._sampler.draw(order)
        except WorkerDiedError as error:
            log.warning("%s; its prompts are tried one by one", error)
            rows = await self._deadly(order)
            await self._sampler.draw(replace(order, set_aside=rows))

    async def _deadly(self, order: DrawOrder) -> tuple[int, ...]:
        rows = []
        for row, (prompt, seed) in enumerate(zip(order.prompts, order.seeds, strict=True)):
            try:
                await self._sampler.probe(replace(order, prompts=(prompt,), seeds=(seed,)))
            except WorkerDiedError as error:
                self._aside += 1
                where = f"prompt {prompt.id} ({prompt.text!r}) by {order.model.name}, {order.kind}/{order.id} row {row}"
                if self._aside > self._most:
                    raise WorkerDiedError(
                        f"{where} is prompt number {self._aside} that no sampler survives, and actors.max_set_aside is "
                        f"{self._most}: so many are the fault of the model or the machines (out of memory?), not "
                        "of the prompts; look at the samplers' logs, or raise the limit"
                    ) from error
                log.error("set aside %s: its sampler died each time it was tried", where)
                rows.append(row)
        return tuple(rows)
