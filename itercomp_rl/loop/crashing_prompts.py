"""A prompt that kills every sampler that draws it is found, named and skipped, so that the run need not end for it."""

import logging
from dataclasses import replace

from itercomp_rl.errors import WorkerDiedError
from itercomp_rl.items import DrawOrder
from itercomp_rl.loop.roles import Sampler

log = logging.getLogger(__name__)


class Drawing:
    """Gives draw orders to a sampler; at most `max_skipped` prompts in all are skipped before the run ends instead."""

    def __init__(self, sampler: Sampler, max_skipped: int) -> None:
        self._sampler, self._max_skipped = sampler, max_skipped
        self._num_skipped = 0

    async def draw(self, order: DrawOrder) -> None:
        """Draw an order's images, without those of the prompts that crash every sampler.

        Raises: WorkerDiedError if more than `max_skipped` prompts were skipped, or if each prompt survives alone and
        the whole order still kills the sampler.
        """
        try:
            await self._sampler.draw(order)
        except WorkerDiedError as error:
            log.warning("%s; its prompts are tried one by one", error)
            rows = await self._crashing_rows(order)
            await self._sampler.draw(replace(order, skipped=rows))

    async def _crashing_rows(self, order: DrawOrder) -> tuple[int, ...]:
        rows = []
        for row, (prompt, seed) in enumerate(zip(order.prompts, order.seeds, strict=True)):
            try:
                await self._sampler.try_drawing(replace(order, prompts=(prompt,), seeds=(seed,)))
            except WorkerDiedError as error:
                self._num_skipped += 1
                where = f"prompt {prompt.id} ({prompt.text!r}) by {order.model.name}, {order.kind}/{order.id} row {row}"
                if self._num_skipped > self._max_skipped:
                    raise WorkerDiedError(
                        f"{where} is prompt number {self._num_skipped} that no sampler survives, and "
                        f"actors.max_skipped_prompts is {self._max_skipped}: that many are the fault of the model or "
                        "the machines (out of memory?), not of the prompts; look at the samplers' logs, or raise the "
                        "limit"
                    ) from error
                log.error("skipped %s: its sampler died each time it was tried", where)
                rows.append(row)
        return tuple(rows)
