"""What pieces of work took in a run: calls, items and seconds, kept in times.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itercomp_rl.files.whole import write_whole
from itercomp_rl.items import DrawOrder, ModelRef, RankOrder
from itercomp_rl.plan import BASE

FILE = "times.json"  # in the run folder


def drawn_by(model: ModelRef) -> str:
    """The name a model has in draw_image_s: all versions of the policy draw alike, published or probed."""
    return "policy" if model.role is not None or model.name == BASE else model.name


class WorkTimes:
    """What pieces of work took: calls, items and seconds by kind of work, such as "judge.rank"."""

    def __init__(self, work: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.work: dict[str, dict[str, float]] = {}
        self.join(work or {})

    def add(self, role: str, method: str, arguments: tuple[Any, ...], seconds: float) -> None:
        """One call of a role's method. Any: as the role's Protocol says."""
        first = arguments[0] if arguments else None
        kind = f"{role}.{method} {drawn_by(first.model)}" if isinstance(first, DrawOrder) else f"{role}.{method}"
        self.join({kind: {"calls": 1, "items": _items(method, arguments), "seconds": seconds}})

    def join(self, work: Mapping[str, Mapping[str, float]]) -> None:
        """Add what another one counted."""
        for kind, entry in work.items():
            mine = self.work.setdefault(kind, {"calls": 0, "items": 0, "seconds": 0.0})
            for name, value in entry.items():
                mine[name] += value

    def take(self) -> dict[str, dict[str, float]]:
        """All that was counted since the last time."""
        found, self.work = self.work, {}
        return found

    def save(self, file: Path) -> None:
        """Write everything counted so far as JSON."""
        write_whole(file, json.dumps(self.work, indent=1) + "\n")


def load_work(folder: Path) -> WorkTimes:
    """What the run in `folder` counted so far; nothing, where it has not begun."""
    file = folder / FILE
    return WorkTimes(json.loads(file.read_text(encoding="utf-8")) if file.exists() else None)


def _items(method: str, arguments: tuple[Any, ...]) -> int:
    """How many images, updates or rollouts a call was for; 1 where it cannot be counted so."""
    first = arguments[0] if arguments else None
    if isinstance(first, DrawOrder):
        return len(first.prompts)
    if isinstance(first, RankOrder):
        return sum(len(images) for images in first.images)
    if method == "advance":
        return arguments[0]
    return len(arguments[1]) if method == "update" else 1
