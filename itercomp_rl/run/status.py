"""How far a run is, from what its folder and its store say; nothing is asked of the run itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itercomp_rl.config.schema import Config
from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import GRADES, IMAGES, POLICY, RANKINGS, reward_role
from itercomp_rl.store.store import Store

STALE_S = 30.0  # the driver writes its status every two seconds; one that is older has no driver any more


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundState:
    """One round: what is done of what it plans; `rewards` is the held-out accuracy of each published reward model."""

    round: int
    segments: int
    total_segments: int
    ranked: int
    total_ranked: int
    rewards: Mapping[str, float]
    updates: int
    total_updates: int
    is_published: bool
    graded: int
    total_graded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as `itercomp status` shows it; `live` is the driver's status.json, None where no driver writes it."""

    name: str
    folder: str
    is_finished: bool
    rounds: tuple[RoundState, ...]
    live: dict[str, Any] | None
    values: Mapping[str, tuple[float, int]]  # metric: its last value, and the round it was of


def read_state(config: Config, store: Store, now: float) -> RunState:
    """The state of a run at `now` (unix seconds)."""
    folder = config.run_folder
    values, updates = _metrics(folder / "metrics.jsonl")
    plan = Plan(config=config)
    done = {kind: set(store.ids(kind)) for kind in (IMAGES, RANKINGS, GRADES)}
    policies = {version: weights.open_version(store, POLICY, version) for version in weights.versions(store, POLICY)}
    rounds = []
    for round_ in range(plan.rounds):
        draws = [order.id for segment in range(len(plan.segments())) for order in plan.draw_orders(round_, segment)]
        # The base and the founders are evaluated in round 0, each policy at the end of its own.
        models = [*([plan.policy(-1)] if round_ == 0 else []), *plan.founders(round_), plan.policy(round_)]
        grades = [order.id for order in plan.grading_orders(models)]
        is_published = round_ in policies
        total = config.policy.updates
        rounds.append(
            RoundState(
                round=round_,
                segments=len(done[IMAGES] & set(draws)),
                total_segments=len(draws),
                ranked=len(done[RANKINGS] & set(plan.rankings(round_))),
                total_ranked=len(plan.rankings(round_)),
                rewards=_accuracies(store, config, plan.reward_version(round_)),
                # A round may end before its last update (policy.patience).
                updates=policies[round_].attrs["updates"] if is_published else min(total, updates.get(round_, 0)),
                total_updates=total,
                is_published=is_published,
                graded=len(done[GRADES] & set(grades)),
                total_graded=len(grades),
            )
        )
    is_finished = (folder / "results.json").exists()
    live = None if is_finished else _live(folder / "status.json", now)
    return RunState(
        name=config.run.name,
        folder=str(folder),
        is_finished=is_finished,
        rounds=tuple(rounds),
        live=live,
        values=values,
    )


def _accuracies(store: Store, config: Config, version: int) -> dict[str, float]:
    found = {}
    for aspect in config.prompts.aspects:
        if published := weights.find(store, reward_role(aspect), version):
            found[aspect] = published.attrs["report"]["accuracy"]
    return found


def _metrics(file: Path) -> tuple[dict[str, tuple[float, int]], dict[int, int]]:
    """The last value of every metric and its round; and how many policy updates each round has logged."""
    values: dict[str, tuple[float, int]] = {}
    updates: dict[int, int] = {}
    if not file.exists():
        return values, updates
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.endswith("}"):
            continue  # the line that is being written
        entry = json.loads(line)
        values[entry["name"]] = (entry["value"], entry["round"])
        if entry["name"] == "policy/lag_updates":
            updates[entry["round"]] = updates.get(entry["round"], 0) + 1
    return values, updates


def _live(file: Path, now: float) -> dict[str, Any] | None:
    if not file.exists():
        return None
    tree = json.loads(file.read_text(encoding="utf-8"))
    return tree if now - tree["time"] < STALE_S else None
