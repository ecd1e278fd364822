"""What the report says in numbers: the metrics of metrics.jsonl, and who was made from what."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import POLICY, RANKINGS, reward_role
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over a run, in the order it was written: unix seconds, rounds from 0, values."""

    name: str
    times: Sequence[float]
    rounds: Sequence[int]
    values: Sequence[float]


def load_metrics(folder: Path) -> dict[str, Series]:
    """Every metric of a run folder; empty before the first. A last line that a kill cut short is left out."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return {}
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in whole.splitlines():
        row = json.loads(line)
        rows.setdefault(row["name"], []).append(row)
    return {
        name: Series(
            name=name,
            times=[row["time"] for row in found],
            rounds=[row["round"] for row in found],
            values=[row["value"] for row in found],
        )
        for name, found in rows.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Phase(name="gallery", round=0, start_s=3.5, seconds=12.1): seconds since the run's first metric."""

    name: str
    round: int
    start_s: float
    seconds: float


def phases_of(metrics: dict[str, Series]) -> list[Phase]:
    """When each phase ran, from its `time/<phase>_s`, which is written as it ends; times start at the first phase."""
    ended = [
        (name.removeprefix("time/").removesuffix("_s"), round_, end, seconds)
        for name, series in metrics.items()
        if name.startswith("time/")
        for round_, end, seconds in zip(series.rounds, series.times, series.values, strict=True)
    ]
    zero = min((end - seconds for _, _, end, seconds in ended), default=0.0)
    found = [Phase(name=n, round=r, start_s=end - seconds - zero, seconds=seconds) for n, r, end, seconds in ended]
    return sorted(found, key=lambda phase: phase.start_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLineage:
    """What one round was made from, and what it made; `policy` is None while it is not published."""

    round: int
    joined: list[str]
    num_prompts: int
    rewards: list[dict[str, Any]]  # the reports published with the reward models
    policy: dict[str, Any] | None  # checksum, updates, what it started from


def lineage(store: Store, plan: Plan) -> list[RoundLineage]:
    """Every round that has committed something, in order."""
    return [found for found in (_round(store, plan, round_) for round_ in range(plan.rounds)) if found]


def _round(store: Store, plan: Plan, round_: int) -> RoundLineage | None:
    sizes = [stop - start for start, stop in plan.segments()]
    ranked = [size for size, id_ in zip(sizes, plan.rankings(round_), strict=True) if store.has(RANKINGS, id_)]
    if not ranked:
        return None
    rewards = []
    for aspect in plan.config.prompts.aspects:
        version = plan.reward_version(round_)
        if learned := weights.find(store, reward_role(aspect), version):
            rewards.append(learned.attrs["report"])
    policy = None
    if published := weights.find(store, POLICY, round_):
        attrs = published.attrs
        start = attrs.get("base_policy")
        started = attrs["base"] if start is None else f"{attrs['base']} + round {start + 1}"
        policy = {"checksum": published.checksum, "started": started, "bytes": published.num_bytes}
        policy["updates"], policy["kept_update"] = attrs["updates"], attrs.get("kept_update")
    joined = [model.name for model in plan.newcomers(round_)]
    return RoundLineage(round=round_, joined=joined, num_prompts=sum(ranked), rewards=rewards, policy=policy)
