"""What a run costs, by the clock and in memory; parts of it that were killed count too."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from itercomp_rl.files.whole import write_whole

COSTS = "costs.json"  # in the run folder: what all parts of the run cost so far


class RunCosts:
    """Seconds, the highest resident memory of this process and all it started, and the seconds of each phase.

    Memory is sampled twice a second, pages that processes share count for each; costs.json is written every five
    seconds and goes on from what an earlier part of the run left there.
    """

    def __init__(self, folder: Path, began: float) -> None:
        """began: time.monotonic() at this part's start."""
        self._file, self._began = folder / COSTS, began
        self._earlier = _read(self._file) or _read(folder / "results.json")
        self._phases: list[dict[str, Any]] = []
        self._peak_mib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "RunCosts":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._write()

    def follow(self, phases: list[dict[str, Any]]) -> None:
        """Phases of this part, a list that grows."""
        self._phases = phases

    def facts(self) -> dict[str, Any]:
        """{"wall_s": sum over parts, "peak_rss_mb": highest of all parts, "phases": all of them}."""
        return {
            "wall_s": round(time.monotonic() - self._began + self._earlier.get("wall_s", 0.0), 1),
            "peak_rss_mb": max(round(self._peak_mib), self._earlier.get("peak_rss_mb", 0)),
            "phases": [*self._earlier.get("phases", []), *self._phases],
        }

    def _watch(self) -> None:
        me, samples = psutil.Process(), 0
        while not self._done.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # ended since it was listed
            self._peak_mib = max(self._peak_mib, total / 2**20)
            samples += 1
            if samples % 10 == 0:
                self._write()

    def _write(self) -> None:
        try:
            write_whole(self._file, json.dumps(self.facts()))
        except OSError:
            return  # a full disk: the run itself will say so, and this is written again


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # none yet, or cut short by a power loss: no reason for a run not to go on
    return found if isinstance(found, dict) else {}
