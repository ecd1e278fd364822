"""What the loop may ask of whom. A local object, a test's small part and a Ray handle satisfy the same Protocols."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from itercomp_rl.items import (
    DrawOrder,
    MeasureOrder,
    PolicyOrder,
    ProbeOrder,
    RankOrder,
    RewardOrder,
    RewardReport,
    Rollout,
    RolloutOrder,
)


class Sampler(Protocol):
    """Draws gallery and evaluation images."""

    async def draw(self, order: DrawOrder) -> None:
        """Commit the images of `order`; done already means done at once."""
        ...

    async def measure(self, order: MeasureOrder) -> None:
        """Commit the denoising losses of `order`; done already means done at once."""
        ...

    async def try_drawing(self, order: DrawOrder) -> None:
        """Draw the images of `order` and keep nothing: does a sampler survive it?"""
        ...


class Judge(Protocol):
    """Ranks and grades images."""

    async def rank(self, order: RankOrder) -> None:
        """Commit the rankings of `order`."""
        ...

    async def grade(self, segment: str) -> None:
        """Commit the grades of an evaluations segment under the same id."""
        ...

    async def grade_probe(self, order: ProbeOrder) -> None:
        """Commit what judge and reward models say of a probe's images, under the same id."""
        ...


class RewardLearner(Protocol):
    """Teaches one aspect's reward model the pairs."""

    async def open(self, order: RewardOrder) -> int:
        """Load the model, the pairs and the newest checkpoint of this order; returns the updates already made."""
        ...

    async def add(self, rankings: tuple[str, ...]) -> None:
        """Learn from, and measure on, the pairs of these rankings too."""
        ...

    async def advance(self, num_updates: int) -> Mapping[str, float]:
        """Make gradient updates; metrics are means over them."""
        ...

    async def publish_live(self, live_role: str) -> RewardReport:
        """Measure on held-out pairs, calibrate, publish under `live_role` by the updates made, and go on learning."""
        ...

    async def checkpoint(self) -> None:
        """Keep what was learned so far, so that `open` goes on from here; nothing if no order is open."""
        ...

    async def publish(self) -> RewardReport:
        """Measure on held-out pairs, calibrate, publish, and free the memory."""
        ...


class Roller(Protocol):
    """Denoises without gradient up to the mid step."""

    async def roll(self, order: RolloutOrder) -> Rollout:
        """Latents at the order's mid steps, under the version that the order names or a newer one."""
        ...


class PolicyLearner(Protocol):
    """The data-parallel group that learns the policy; a call reaches every rank."""

    async def open(self, order: PolicyOrder) -> int:
        """Load policy, rewards and the newest checkpoint of this round; returns the updates already made."""
        ...

    async def update(self, number: int, rollouts: Sequence[Rollout]) -> Mapping[str, float]:
        """One gradient update from a whole batch; publishes the live version `number` + 1."""
        ...

    async def take_rewards(self, rewards: Mapping[str, RewardReport]) -> None:
        """Learn from these reward models from the next update on."""
        ...

    async def checkpoint(self) -> None:
        """Keep what was learned so far, so that `open` goes on from here; nothing if no round is open."""
        ...

    async def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        """Publish the round's policy (its EMA), with the round's finished `rewards`, and free the memory.

        kept: the EMA as it was probed after so many updates, in place of what it is now.
        """
        ...

    async def restart(self) -> None:
        """Rebuild the whole group after a rank died; `open` then goes on from the last checkpoint."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Everyone the loop speaks to; a role with several members is spoken to as one."""

    sampler: Sampler
    judge: Judge
    reward_learners: Mapping[str, RewardLearner]
    roller: Roller
    policy_learner: PolicyLearner


Advance = Callable[[int, Mapping[str, float]], None]  # steps done now, metrics


class Ledger(Protocol):
    """What the loop reads from the store to know what is done, and how good it is."""

    def has(self, kind: str, id_: str) -> bool:
        """Whether a piece of work is committed."""
        ...

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        """The report published with a reward model, if it is published."""
        ...

    def has_policy(self, version: int) -> bool:
        """Whether a round's policy is published."""
        ...

    def hold(self, use: str, reports: Mapping[str, RewardReport]) -> None:
        """Keep the models of these reports, which may still learn, until the same use holds others."""
        ...

    def reference_rewards(self, round_: int) -> Mapping[str, RewardReport]:
        """By aspect the first reward model, up to this round's, that is published and good enough to learn from."""
        ...

    def probe_values(self, round_: int, update: int) -> Mapping[str, float]:
        """What a graded probe found, by name; `score` is the judge's, a mean over aspects."""
        ...

    def gain_over_base(self, version: int) -> tuple[float, float]:
        """Mean over aspects of an evaluated policy's paired gain over the base, and its standard error."""
        ...


class Progress(Protocol):
    """Who is told how far a phase is."""

    def phase(self, name: str, total: int, round_: int) -> AbstractContextManager[Advance]:
        """Open a phase of `total` steps."""
        ...
