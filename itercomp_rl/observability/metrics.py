"""Where numbers go while a run lasts: one line of JSON each, the trackers, progress for whoever watches."""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from itercomp_rl.loop.roles import Advance
from itercomp_rl.observability.progress_bar import bar
from itercomp_rl.observability.trackers import Trackers

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0

Pictures = Callable[
    [int], NDArray[np.uint8] | None
]  # held-out images [N, H, W, 3] after a round, None if none are there


class MetricsLog:
    """Satisfies loop.Progress; steps of a metric are counted over the whole run, also when it is resumed."""

    def __init__(
        self, folder: Path, trackers: Trackers, pictures: Pictures | None = None, console: Console | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "metrics.jsonl"
        self._steps = _steps_so_far(file)
        self._file = file.open("a", encoding="utf-8")
        self._trackers, self._pictures, self._console = trackers, pictures, console
        self._round = 0
        self.phases: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str, total: int, round_: int) -> Iterator[Advance]:
        """Show how far a phase is, by a bar at a terminal, else a line every ten seconds; log how long it took."""
        began = logged = time.monotonic()
        done, latest = 0, {}
        self._round = round_

        def advance(steps: int, metrics: Mapping[str, float]) -> None:
            nonlocal done, logged
            done += steps
            latest.update(metrics)
            if metrics:
                self._write(round_, metrics)
            if show:
                show(done, _shown(latest, 3).lstrip(", "))
            elif time.monotonic() - logged > LOG_EVERY_S:
                logged = time.monotonic()
                spent = logged - began
                left = f", {spent / done * (total - done):.0f} s left" if 0 < done <= total else ""
                log.info("round %d %s: %d of %d%s%s", round_, name, done, total, left, _shown(latest))

        with bar(f"round {round_} {name}", total, self._console) if self._console else nullcontext() as show:
            yield advance
        seconds = time.monotonic() - began
        self.phases.append({"round": round_, "phase": name, "seconds": round(seconds, 2)})
        self._write(round_, {f"time/{name}_s": seconds})
        log.info("round %d %s: done in %.1f s%s", round_, name, seconds, _shown(latest))
        if name == "evaluation" and self._pictures:
            images = self._pictures(round_)
            if images is not None:
                self._trackers.log_images("evaluation/images", images, round_)

    def record(self, metrics: Mapping[str, float]) -> None:
        """Metrics that belong to no phase; they are written under the round that is under way."""
        self._write(self._round, metrics)

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        self._trackers.close()

    def _write(self, round_: int, metrics: Mapping[str, float]) -> None:
        now = time.time()
        by_step: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for name, value in metrics.items():
            step = self._steps[name]
            self._steps[name] += 1
            by_step[step][name] = value
            line = {"time": now, "round": round_, "step": step, "name": name, "value": value}
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for step, values in by_step.items():
            self._trackers.log(values, step)


def _steps_so_far(file: Path) -> defaultdict[str, int]:
    """How often each metric was written before; a last line that a kill cut short is ended, so that none is joined."""
    steps: defaultdict[str, int] = defaultdict(int)
    if not file.exists():
        return steps
    text = file.read_text(encoding="utf-8")
    whole, _, torn = text.rpartition("\n")
    for line in whole.splitlines():
        steps[json.loads(line)["name"]] += 1
    if torn:
        file.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return steps


def _shown(metrics: Mapping[str, float], most: int | None = None) -> str:
    return "".join(f", {name.split('/')[-1]} {value:.3g}" for name, value in list(metrics.items())[:most])
