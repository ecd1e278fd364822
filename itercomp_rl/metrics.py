"""Where numbers go while a run lasts: one line of JSON each, TensorBoard, and a log line now and then."""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itercomp_rl.loop import Advance

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0


class RunLog:
    """Satisfies loop.Progress; steps of a metric are counted over the whole run."""

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._steps: defaultdict[str, int] = defaultdict(int)
        self.phases: list[dict[str, Any]] = []
        self._board: Any = None  # SummaryWriter, whose import costs a second
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        """Log how far a phase is every ten seconds, and how long it took in all."""
        began = logged = time.monotonic()
        done, latest = 0, {}

        def advance(steps: int, metrics: Mapping[str, float]) -> None:
            nonlocal done, logged
            done += steps
            latest.update(metrics)
            if metrics:
                self._write(round_, metrics)
            if time.monotonic() - logged > LOG_EVERY_S:
                logged = time.monotonic()
                spent = logged - began
                left = f", {spent / done * (total - done):.0f} s left" if 0 < done <= total else ""
                log.info("round %d %s: %d of %d%s%s", round_, name, done, total, left, _shown(latest))

        yield advance
        seconds = time.monotonic() - began
        self.phases.append({"round": round_, "phase": name, "seconds": round(seconds, 2)})
        self._write(round_, {f"time/{name}_s": seconds})
        log.info("round %d %s: done in %.1f s%s", round_, name, seconds, _shown(latest))

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, round_: int, metrics: Mapping[str, float]) -> None:
        now = time.time()
        for name, value in metrics.items():
            step = self._steps[name]
            self._steps[name] += 1
            self._file.write(
                json.dumps({"time": now, "round": round_, "step": step, "name": name, "value": value}) + "\n"
            )
            if self._board is not None:
                self._board.add_scalar(name, value, step)
        self._file.flush()


def _shown(metrics: Mapping[str, float]) -> str:
    return "".join(f", {name.split('/')[-1]} {value:.3g}" for name, value in metrics.items())
