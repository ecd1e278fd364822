"""Actors that sleep for as long as their stage is said to take: the real process, store and messages around them.

They do without torch, which starts them faster; policy weights are one array of a MiB.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.telemetry import ProcessMeter
from actors.worker import Worker, WorkerSpec
from itercomp_rl.items import DrawOrder, PolicyOrder, RankOrder, RewardOrder, RewardReport, Rollout, RolloutOrder
from itercomp_rl.schema import Config
from itercomp_rl.stage_times import StageTimes, WorkTimes
from itercomp_rl.store.store import Store, open_store

CURRENT = "current.json"  # beside the runs: which of them is under way


class SleepingWorker(Worker):
    """The real process around roles that sleep."""

    def __init__(self, spec: WorkerSpec, config: Config) -> None:
        self._spec, self._config = spec, config
        self._meter, self._times = ProcessMeter(spec.label), WorkTimes()
        self._roles = {}
        if (Path(config.run.dir) / CURRENT).exists():
            self.begin()  # started anew in the middle of a run

    def begin(self) -> None:
        """Take part in the run that is named as the current one."""
        tree = json.loads((Path(self._config.run.dir) / CURRENT).read_text())
        config = replace(self._config, run=replace(self._config.run, name=tree["name"]))
        store = open_store(tree["store"], create=True, durable=config.store.durable)
        place = Sleeper(store, StageTimes(**tree["times"]), config.run_folder)
        self._roles = {role.name: SLEEPERS[role.kind](place, role.name) for role in self._spec.roles}


@dataclass(frozen=True)
class Sleeper:
    """What every sleeping role has."""

    store: Store
    times: StageTimes
    folder: Path


class Sampler:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place = place

    def draw(self, order: DrawOrder) -> None:
        if self._place.store.has(order.kind, order.id):
            return
        time.sleep(self._place.times.draw_s(order.model, len(order.prompts)))
        images = np.zeros((len(order.prompts), 8, 8, 3), np.uint8)
        self._place.store.put(order.kind, order.id, {"images": images}, {"round": order.round})


class Judge:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place = place

    def rank(self, order: RankOrder) -> None:
        for segment in {ref.segment for refs in order.images for ref in refs.values()}:
            self._place.store.get("images", segment)
        time.sleep(sum(len(refs) for refs in order.images) * self._place.times.rank_image_s)
        self._place.store.put("rankings", order.id, {}, {"round": order.round})

    def grade(self, segment: str) -> None:
        num = len(self._place.store.get("evaluations", segment).arrays["images"])
        time.sleep(num * self._place.times.grade_image_s)
        self._place.store.put("grades", segment, {}, {})


class RewardLearner:
    """Keeps a checkpoint of the number of updates alone, after each."""

    def __init__(self, place: Sleeper, name: str) -> None:
        self._place, self._aspect = place, name.split("-", 1)[1]

    def open(self, order: RewardOrder) -> int:
        self._order = order
        self._done = len(list(self._place.folder.glob(f"{self._aspect}-*")))
        return self._done

    def add(self, rankings: tuple[str, ...]) -> None:
        """Pairs are read in no time."""

    def advance(self, num_updates: int) -> Mapping[str, float]:
        for _ in range(num_updates):
            time.sleep(self._place.times.reward_update_s)
            (self._place.folder / f"{self._aspect}-{self._done}").touch()
            self._done += 1
        return {}

    def publish(self) -> RewardReport:
        return RewardReport(
            aspect=self._aspect,
            version=self._order.version,
            accuracy=1.0,
            num_pairs=1,
            mean=0.0,
            std=1.0,
            weight=1.0,
        )


class Roller:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place, self._version = place, ""

    def roll(self, order: RolloutOrder) -> Rollout:
        if self._version != (version := _live(order.role, order.version)):
            self._place.store.get("live", version)
            self._version = version
        time.sleep(self._place.times.roll_s)
        latents = np.zeros((1, len(order.prompts), 4, 32, 32), np.float32)
        return Rollout(
            index=order.index, version=order.version, prompts=order.prompts, mid_steps=order.mid_steps, latents=latents
        )


class PolicyLearner:
    """One rank; rank 0 publishes every version and keeps a checkpoint of the number of updates alone."""

    def __init__(self, place: Sleeper, name: str) -> None:
        self._place, self._rank, self._order = place, int(name.rsplit("-", 1)[1]), None
        self._weights = np.zeros(2**18, np.float32)

    def join(self, group: Any) -> None:
        self._ranks = group.world_size

    def open(self, order: PolicyOrder) -> int:
        self._order = order
        done = len(list(self._place.folder.glob("checkpoint-*")))
        self._publish(done)
        return done

    def update(self, number: int, rollouts: Sequence[Rollout], num_rollouts: int) -> Mapping[str, float]:
        time.sleep(self._place.times.update_s(num_rollouts, self._ranks))
        self._publish(number + 1)
        if self._rank == 0:
            (self._place.folder / f"checkpoint-{number}").touch()
        return {}

    def publish(self, rewards: Mapping[str, RewardReport]) -> None:
        self._order = None

    def _publish(self, number: int) -> None:
        assert self._order is not None
        if self._rank == 0:
            self._place.store.put("live", _live(self._order.live_role, number), {"w": self._weights}, {"round": 0})


def _live(role: str, version: int) -> str:
    return f"{role}-{version:07d}"


SLEEPERS = {
    "sampler": Sampler,
    "judge": Judge,
    "reward_learner": RewardLearner,
    "roller": Roller,
    "policy_learner": PolicyLearner,
}
