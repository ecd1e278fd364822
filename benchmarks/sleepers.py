"""Actors that sleep for as long as their stage is said to take: the real process, store and messages around them.

They do without torch, which starts them faster. What each leaves is made of what it was given, by SHA-256, so that an
update lost or made twice, and work done on other images, rankings or weights, shows in every record after it; whoever
would publish a record, live weights aside, that is there with other content fails. A policy is one array of a MiB.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.telemetry import ProcessMeter
from actors.worker import Worker, WorkerSpec
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import CorruptRecordError, WorkerDiedError
from itercomp_rl.files.whole import replacing
from itercomp_rl.forecast.stage_times import StageTimes
from itercomp_rl.items import (
    DrawOrder,
    PolicyOrder,
    Prompt,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)
from itercomp_rl.observability.work_times import WorkTimes
from itercomp_rl.store.kinds import EVALUATIONS, GRADES, IMAGES, RANKINGS
from itercomp_rl.store.store import Store, open_store

CURRENT = "current.json"  # beside the runs: which of them is under way
STATE = 32  # bytes of a model's state

State = NDArray[np.uint8]


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
        tree = json.loads((Path(self._config.run.dir) / CURRENT).read_text(encoding="utf-8"))
        config = replace(self._config, run=replace(self._config.run, name=tree["name"]))
        store = open_store(tree["store"], durable=config.store.durable)
        place = Sleeper(store, StageTimes(**tree["times"]), config)
        self._roles = {role.name: SLEEPERS[role.kind](place, role.name) for role in self._spec.roles}

    def meeting_place(self) -> tuple[str, int]:
        """Nowhere: ranks that sleep exchange nothing."""
        return "", 0

    def _unload_models_that_draw_and_judge(self) -> None:
        """Do nothing: roles that sleep hold no models."""


@dataclass(frozen=True)
class Sleeper:
    """What every sleeping role has."""

    store: Store
    times: StageTimes
    config: Config

    def model(self, kind: str, id_: str) -> State:
        """The state of a published reward model or policy."""
        return self.store.get(kind, id_).arrays["state"]

    def rewards(self, version: int) -> list[State]:
        """The states of all aspects' reward models of a version."""
        return [self.model("rewards", reward_id(aspect, version)) for aspect in self.config.prompts.aspects]

    def publish(self, kind: str, id_: str, arrays: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
        """Put a record. Raises: CorruptRecordError if one of other content is there."""
        self.store.put(kind, id_, arrays, attrs)
        there = self.store.get(kind, id_)
        same = all(np.array_equal(array, there.arrays[name]) for name, array in arrays.items())
        if not same or json.loads(json.dumps(attrs)) != there.attrs:
            raise CorruptRecordError(f"{kind}/{id_} was published before with other content")


def reward_id(aspect: str, version: int) -> str:
    """Id of a sleeping reward model among "rewards"."""
    return f"{aspect}-{version}"


def policy_id(version: int, rank: int) -> str:
    """Id of a rank's share of a sleeping policy among "policies"."""
    return f"{version}-rank{rank}"


class Sampler:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place = place

    def draw(self, order: DrawOrder) -> None:
        if self._place.store.has(order.kind, order.id):
            return
        time.sleep(self._place.times.draw_s(order.model, len(order.prompts)))
        model = order.model
        weights = model.name if model.version is None else self._place.model("policies", policy_id(model.version, 0))
        drawn = zip(_ids(order.prompts), order.seeds, strict=True)
        images = np.stack([_noise((8, 8, 3), weights, prompt, seed) for prompt, seed in drawn])
        self._place.publish(order.kind, order.id, {"images": images}, {"round": order.round})


class Judge:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place = place

    def rank(self, order: RankOrder) -> None:
        store = self._place.store
        segments = dict.fromkeys(ref.segment for refs in order.images for ref in refs.values())
        images = {segment: store.get(IMAGES, segment).arrays["images"] for segment in segments}
        given: list[Any] = [_ids(order.prompts), order.newcomers]
        given += [[name, images[ref.segment][ref.row]] for refs in order.images for name, ref in refs.items()]
        if order.earlier is not None and order.reward_version is not None:
            given += [store.get(RANKINGS, order.earlier).attrs["ranking"], self._place.rewards(order.reward_version)]
        time.sleep(sum(len(refs) for refs in order.images) * self._place.times.rank_image_s)
        self._place.publish(RANKINGS, order.id, {}, {"round": order.round, "ranking": _state(*given).tolist()})

    def grade(self, segment: str) -> None:
        images = self._place.store.get(EVALUATIONS, segment).arrays["images"]
        time.sleep(len(images) * self._place.times.grade_image_s)
        self._place.publish(GRADES, segment, {}, {"grade": _state(images).tolist()})


class RewardLearner:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place, self._aspect = place, name.split("-", 1)[1]
        self._order: RewardOrder | None = None

    def open(self, order: RewardOrder) -> int:
        self._order, self._rankings = order, list(order.rankings)
        self._checkpoints = Checkpoints(self._place, f"{self._aspect}-r{order.round}")
        start = order.start_version
        first = _state(self._aspect) if start is None else self._place.model("rewards", reward_id(self._aspect, start))
        self._done = self._checkpoints.newest()
        self._weights = self._checkpoints.load(self._done) if self._done else first
        return self._done

    def _opened(self) -> RewardOrder:
        if self._order is None:
            raise WorkerDiedError("a reward learner was restarted and holds no order")
        return self._order

    def add(self, rankings: tuple[str, ...]) -> None:
        self._opened()
        self._rankings += rankings

    def advance(self, num_updates: int) -> Mapping[str, float]:
        self._opened()
        pairs = [self._place.store.get(RANKINGS, id_).attrs["ranking"] for id_ in self._rankings]
        for _ in range(num_updates):
            time.sleep(self._place.times.reward_update_s)
            self._weights, self._done = _state(self._weights, pairs), self._done + 1
            if self._done % self._place.config.reward.checkpoint_every == 0:
                self._checkpoints.save(self._done, self._weights)
        return {}

    def publish(self) -> RewardReport:
        order = self._opened()
        report = RewardReport(
            aspect=self._aspect, version=order.version, accuracy=1.0, num_pairs=1, mean=0.0, std=1.0, weight=1.0
        )
        id_ = reward_id(self._aspect, order.version)
        self._place.publish("rewards", id_, {"state": self._weights}, {"report": asdict(report)})
        return report


class Roller:
    def __init__(self, place: Sleeper, name: str) -> None:
        self._place, self._version, self._weights = place, "", np.zeros(STATE, np.uint8)

    def roll(self, order: RolloutOrder) -> Rollout:
        if self._version != (version := _live(order.role, order.version)):
            self._weights = self._place.store.get("live", version).arrays["w"][:STATE].astype(np.uint8)
            self._version = version
        time.sleep(self._place.times.roll_s)
        noise = _noise((4, 32, 32), self._weights, order.index, order.seeds, order.mid_steps, _ids(order.prompts))
        latents = np.broadcast_to(noise.astype(np.float32), (1, len(order.prompts), *noise.shape)).copy()
        return Rollout(
            index=order.index, version=order.version, prompts=order.prompts, mid_steps=order.mid_steps, latents=latents
        )


class PolicyLearner:
    """One rank, with checkpoints of its own; rank 0 publishes every version."""

    def __init__(self, place: Sleeper, name: str) -> None:
        self._place, self._rank = place, int(name.rsplit("-", 1)[1])
        self._ranks: int | None = None
        self._order: PolicyOrder | None = None

    def join(self, group: Any) -> None:
        self._ranks = group.world_size

    def open(self, order: PolicyOrder) -> int:
        if self._ranks is None:
            raise WorkerDiedError("a policy learner was restarted and belongs to no group yet")
        self._order = order
        everyone = [Checkpoints(self._place, f"r{order.round}-rank{rank}") for rank in range(self._ranks)]
        self._checkpoints, start = everyone[self._rank], order.start_version
        first = [] if start is None else self._place.model("policies", policy_id(start, self._rank))
        rewards = [self._place.model("rewards", reward_id(name, one.version)) for name, one in order.rewards.items()]
        pairs = [self._place.store.get(RANKINGS, id_).attrs["ranking"] for id_ in order.rankings]
        done = min(one.newest() for one in everyone)
        self._weights = self._checkpoints.load(done) if done else _state(self._rank, first, rewards, pairs)
        self._publish(done)
        return done

    def _opened(self) -> PolicyOrder:
        if self._order is None:
            raise WorkerDiedError("a policy learner was restarted and holds no order")
        return self._order

    def update(self, number: int, rollouts: Sequence[Rollout], num_rollouts: int) -> Mapping[str, float]:
        self._opened()
        time.sleep(self._place.times.update_s(num_rollouts, self._ranks or 1))
        self._weights = _state(self._weights, number, [(one.index, one.version, one.latents) for one in rollouts])
        self._publish(number + 1)
        if (number + 1) % self._place.config.policy.checkpoint_every == 0:
            self._checkpoints.save(number + 1, self._weights)
        return {}

    def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        assert kept is None, "sleeping runs have no probes to choose from"
        id_ = policy_id(self._opened().round, self._rank)
        self._place.publish("policies", id_, {"state": self._weights}, {})
        self._order = None

    def _publish(self, number: int) -> None:
        if self._rank == 0:
            weights = np.zeros(2**18, np.float32)
            weights[:STATE] = self._weights
            self._place.store.put("live", _live(self._opened().live_role, number), {"w": weights}, {"round": 0})


class Checkpoints:
    """States by the number of updates, in files that appear whole."""

    def __init__(self, place: Sleeper, name: str) -> None:
        self._folder, self._name = place.config.run_folder, name

    def newest(self) -> int:
        """The highest number; 0 where there is none."""
        return max((int(file.suffix[1:]) for file in self._folder.glob(f"{self._name}.[0-9]*")), default=0)

    def save(self, number: int, state: State) -> None:
        with replacing(self._folder / f"{self._name}.{number}") as new:
            new.write_bytes(state.tobytes())

    def load(self, number: int) -> State:
        return np.frombuffer((self._folder / f"{self._name}.{number}").read_bytes(), np.uint8)


def _live(role: str, version: int) -> str:
    return f"{role}-{version:07d}"


def _ids(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


def _state(*parts: Any) -> State:  # Any: numbers, texts, arrays, and lists of these
    """A digest of all of it."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(part.tobytes())
        elif isinstance(part, list | tuple):
            found.update(_state(*part).tobytes())
        else:
            found.update(f"{part};".encode())
    return np.frombuffer(found.digest(), np.uint8)


def _noise(shape: tuple[int, ...], *parts: Any) -> NDArray[np.uint8]:
    """Random bytes that only depend on the parts."""
    return np.random.default_rng(_state(*parts)).integers(0, 256, shape, np.uint8)


SLEEPERS = {
    "sampler": Sampler,
    "judge": Judge,
    "reward_learner": RewardLearner,
    "roller": Roller,
    "policy_learner": PolicyLearner,
}
