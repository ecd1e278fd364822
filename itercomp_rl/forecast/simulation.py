"""A run played in advance: the real loop with a team that only takes its time, under a clock that jumps.

Nothing of the loop is written down a second time here, so a prediction keeps every rule of it: slots, segments, order.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from itercomp_rl.forecast.simulated_team import Processes, SimulatedTeam, Span
from itercomp_rl.forecast.stage_times import StageTimes
from itercomp_rl.forecast.virtual_clock import JumpingLoop
from itercomp_rl.items import DrawOrder, ModelRef, RankOrder, RolloutOrder
from itercomp_rl.loop.rounds import run_rounds
from itercomp_rl.plan import Plan

MOST_ROLLOUTS = 40_000  # played one by one; a policy phase that has more is played in part and drawn out


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run is predicted to do."""

    seconds: float
    phases: tuple[Span, ...]
    busy_s: Mapping[str, float]  # seconds of work by role, all its members together
    members: Mapping[str, int]
    process_busy_s: Mapping[str, float]
    max_lag: int
    num_orders: int
    played_updates: int  # of each round; fewer than policy.updates where the rest was drawn out

    @property
    def utilisation(self) -> dict[str, float]:
        """Share of the run's time that each role's members work."""
        return {role: busy / (self.seconds * self.members[role] or 1.0) for role, busy in self.busy_s.items()}

    @property
    def round_s(self) -> tuple[float, ...]:
        """Seconds of each round; what precedes the first belongs to it."""
        ends: dict[int, float] = {}
        for span in self.phases:
            ends[span.round] = max(ends.get(span.round, 0.0), span.ended)
        found, before = [], 0.0
        for round_ in sorted(ends):
            found.append(ends[round_] - before)
            before = ends[round_]
        return tuple(found)

    def phase_s(self, phase: str) -> float:
        """Seconds of a phase in all rounds."""
        return sum(span.ended - span.began for span in self.phases if span.phase == phase)


@dataclass(frozen=True, kw_only=True)
class LightPlan(Plan):
    """A run's plan without what only real models read: texts, noise, mid steps. One serves many simulations."""

    kept: dict[tuple[str, ...], Any] = field(default_factory=dict)  # Any: the orders of a segment or of a model

    def draw_orders(self, round_: int, segment: int) -> list[DrawOrder]:
        return self._keep(
            ("draw", str(round_), str(segment)), lambda: super(LightPlan, self).draw_orders(round_, segment)
        )

    def rank_order(self, round_: int, segment: int) -> RankOrder:
        return self._keep(
            ("rank", str(round_), str(segment)), lambda: super(LightPlan, self).rank_order(round_, segment)
        )

    def evaluation_orders(self, model: ModelRef, split: str = "test") -> list[DrawOrder]:
        return self._keep(("grade", model.name, split), lambda: super(LightPlan, self).evaluation_orders(model, split))

    def probe_orders(self, round_: int, update: int) -> list[DrawOrder]:
        return self._keep(
            ("probe", str(round_), str(update)), lambda: super(LightPlan, self).probe_orders(round_, update)
        )

    def rollout_order(self, round_: int, index: int, live: tuple[str, int]) -> RolloutOrder:
        return RolloutOrder(index=index, role=live[0], version=live[1], prompts=(), seeds=(), mid_steps=())

    def _keep(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


def simulate(
    plan: LightPlan, times: StageTimes, processes: Processes, *, seed: int = 0, most_rollouts: int = MOST_ROLLOUTS
) -> Forecast:
    """Play the run; `seed` matters only where times have a spread.

    Of a run with more than `most_rollouts` rollouts, fewer updates are played in each round; the rest are taken to go
    on at the pace of the last half of these.
    """
    policy, per_round = plan.config.policy, most_rollouts // (plan.rounds * plan.rollouts_per_update)
    played = min(policy.updates, max(per_round, 6 * (policy.max_policy_lag + 2)))
    if played == policy.updates:
        return _play(plan, times, processes, seed)[0]
    shown = LightPlan(config=replace(plan.config, policy=replace(policy, updates=played)), kept=plan.kept)
    found, paces = _play(shown, times, processes, seed)
    return _drawn_out(found, paces, policy.updates / played, policy.updates - played)


def _play(plan: LightPlan, times: StageTimes, processes: Processes, seed: int) -> tuple[Forecast, dict[int, float]]:
    """The forecast, and the seconds per update of each round once it is going."""
    loop = JumpingLoop()
    team = SimulatedTeam(plan, times, processes, random.Random(seed), loop)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run_rounds(plan, team.team(), team, team))
        seconds = loop.time()
    found = Forecast(
        seconds=seconds,
        phases=tuple(sorted(team.spans, key=lambda span: span.began)),
        busy_s=team.busy_s,
        members=team.members,
        process_busy_s={label: process.busy_s for label, process in team.processes.items()},
        max_lag=team.max_lag,
        num_orders=team.num_orders,
        played_updates=plan.config.policy.updates,
    )
    return found, {round_: _pace(ends) for round_, ends in team.update_ends.items()}


def _pace(ends: Sequence[float]) -> float:
    middle = len(ends) // 2
    return (ends[-1] - ends[middle]) / max(1, len(ends) - 1 - middle)


def _drawn_out(found: Forecast, paces: Mapping[int, float], factor: float, more: int) -> Forecast:
    """A forecast of a shortened run, with `more` updates in each policy phase."""
    phases, moved = [], 0.0
    for span in found.phases:
        longer = more * paces[span.round] if span.phase == "policy" else 0.0
        phases.append(replace(span, began=span.began + moved, ended=span.ended + moved + longer))
        moved += longer
    learning = ("roller", "policy_learner")
    return replace(
        found,
        seconds=found.seconds + moved,
        phases=tuple(phases),
        busy_s={role: busy * (factor if role in learning else 1.0) for role, busy in found.busy_s.items()},
        process_busy_s={
            label: busy * (factor if label.rpartition("-")[0] in learning else 1.0)
            for label, busy in found.process_busy_s.items()
        },
    )
