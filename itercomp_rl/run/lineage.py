"""Where a policy version comes from: reward models, pairs, images, prompts, models, seeds and code, from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from itercomp_rl.config.schema import Config
from itercomp_rl.errors import MissingRecordError
from itercomp_rl.items import PairRef
from itercomp_rl.ranking import imported
from itercomp_rl.ranking.pairs import load_pairs, pair_rules
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import IMAGES, POLICY, RANKINGS, reward_role
from itercomp_rl.store.layout import Commit, record_place, version_place
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Who wrote something, when (unix seconds), with which software; `code` in it is the hash of our source."""

    writer: str
    time_s: float
    software: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOrigin:
    """What one policy version was learned from."""

    version: int
    base: str  # the checkpoint that the first version began as
    start_version: int | None
    rewards: Mapping[str, int]  # aspect: version
    rankings: tuple[str, ...]
    updates: int
    seed: int
    made: Made


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOrigin:
    """What one reward model was learned from; `pairs` are those it learned, `held_out` those that measured it."""

    aspect: str
    version: int
    start_version: int | None
    rankings: tuple[str, ...]
    accuracy: float
    pairs: tuple[PairRef, ...]
    held_out: tuple[PairRef, ...]
    made: Made


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsOrigin:
    """One record of rankings and the image segments it ranked."""

    id: str
    round: int
    prompts: tuple[str, ...]
    segments: tuple[str, ...]
    made: Made


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesOrigin:
    """One segment of images: image i is prompt i drawn with seed i by the model."""

    id: str
    model: str
    checkpoint: str
    policy_version: int | None
    num_steps: int
    guidance: float
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    made: Made


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Everything behind one policy version, each once, oldest first."""

    policies: tuple[PolicyOrigin, ...]
    rewards: tuple[RewardOrigin, ...]
    rankings: tuple[RankingsOrigin, ...]
    images: tuple[ImagesOrigin, ...]

    @property
    def code(self) -> tuple[str, ...]:
        """Every version of the project's source that wrote a part of it; one where the run was never updated."""
        parts = (*self.policies, *self.rewards, *self.rankings, *self.images)
        return tuple(sorted({part.made.software.get("code", "unknown") for part in parts}))

    def tree(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"code": list(self.code)}


def trace(store: Store, config: Config, version: int) -> Lineage:
    """The lineage of a policy version, through every policy it began from or whose images were ranked.

    Raises: MissingRecordError if a link is not in the store; CorruptRecordError.
    """
    policies: dict[int, PolicyOrigin] = {}
    rewards: dict[tuple[str, int], RewardOrigin] = {}
    rankings: dict[str, RankingsOrigin] = {}
    images: dict[str, ImagesOrigin] = {}
    wanted = [version]
    while wanted:
        if (number := wanted.pop()) in policies:
            continue
        policy = policies[number] = _policy(store, number)
        for aspect, reward_version in policy.rewards.items():
            _add_rewards(store, config, aspect, reward_version, rewards)
        used = [*policy.rankings, *(id_ for reward in rewards.values() for id_ in reward.rankings)]
        for id_ in dict.fromkeys(used):
            if id_ not in rankings:
                rankings[id_] = _rankings(store, id_)
        for id_ in dict.fromkeys(id_ for ranked in rankings.values() for id_ in ranked.segments):
            if id_ not in images:
                images[id_] = _images(store, id_)
        drawn = (segment.policy_version for segment in images.values())
        wanted += [found for found in (policy.start_version, *drawn) if found is not None and found not in policies]
    return Lineage(
        policies=tuple(policies[key] for key in sorted(policies)),
        rewards=tuple(rewards[key] for key in sorted(rewards)),
        rankings=tuple(rankings[key] for key in sorted(rankings)),
        images=tuple(images[key] for key in sorted(images)),
    )


def _add_rewards(
    store: Store, config: Config, aspect: str, version: int, rewards: dict[tuple[str, int], RewardOrigin]
) -> None:
    """A reward model and those it began from."""
    number: int | None = version
    while number is not None and (aspect, number) not in rewards:
        rewards[aspect, number] = reward = _reward(store, config, aspect, number)
        number = reward.start_version


def _policy(store: Store, version: int) -> PolicyOrigin:
    commit = _version(store, POLICY, version)
    attrs = commit.attrs["attrs"]
    return PolicyOrigin(
        version=version,
        base=attrs["base"],
        start_version=attrs["base_policy"],
        rewards={aspect: report["version"] for aspect, report in attrs["rewards"].items()},
        rankings=tuple(attrs["rankings"]),
        updates=attrs["updates"],
        seed=attrs["seed"],
        made=_made(commit),
    )


def _reward(store: Store, config: Config, aspect: str, version: int) -> RewardOrigin:
    commit = _version(store, reward_role(aspect), version)
    attrs = commit.attrs["attrs"]
    rules = pair_rules(config.judge, config.reward, config.run.seed)
    pairs, held_out = load_pairs(store, attrs["rankings"], aspect, rules)
    if config.reward.preferences:
        stated, kept = imported.load_pairs(store, aspect, rules)
        pairs, held_out = pairs + stated, held_out + kept
    return RewardOrigin(
        aspect=aspect,
        version=version,
        start_version=attrs["base"],
        rankings=tuple(attrs["rankings"]),
        accuracy=attrs["report"]["accuracy"],
        pairs=tuple(pairs),
        held_out=tuple(held_out),
        made=_made(commit),
    )


def _rankings(store: Store, id_: str) -> RankingsOrigin:
    commit = _record(store, RANKINGS, id_)
    ranked = load_rankings(store, id_)
    return RankingsOrigin(
        id=id_,
        round=commit.attrs["round"],
        prompts=tuple(prompt.text for prompt, _, _ in ranked),
        segments=tuple(sorted({ref.segment for _, images, _ in ranked for ref in images.values()})),
        made=_made(commit),
    )


def _images(store: Store, id_: str) -> ImagesOrigin:
    commit = _record(store, IMAGES, id_)
    attrs = commit.attrs
    return ImagesOrigin(
        id=id_,
        model=attrs["model"],
        checkpoint=attrs["checkpoint"],
        policy_version=attrs["policy_version"],
        num_steps=attrs["num_steps"],
        guidance=attrs["guidance"],
        prompts=tuple(prompt["text"] for prompt in attrs["prompts"]),
        seeds=tuple(store.read_array(commit, "seeds").tolist()),
        made=_made(commit),
    )


def _version(store: Store, role: str, version: int) -> Commit:
    if commit := store.find(version_place(role, version)):
        return commit
    have: Sequence[int] = weights.versions(store, role)
    raise MissingRecordError(f"store {store.url} holds no version {version} of {role}, but {list(have)}")


def _record(store: Store, kind: str, id_: str) -> Commit:
    if commit := store.find(record_place(kind, id_)):
        return commit
    raise MissingRecordError(f"store {store.url} holds no {kind} {id_}, which its lineage names: it was removed")


def _made(commit: Commit) -> Made:
    return Made(writer=commit.writer, time_s=commit.time_s, software=commit.software)
