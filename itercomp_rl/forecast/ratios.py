"""Which counts of actors finish a run first on given devices: a reckoning of all, then a simulation of the best."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.forecast.simulated_team import Processes
from itercomp_rl.forecast.simulation import Forecast, LightPlan, simulate
from itercomp_rl.forecast.stage_times import StageTimes
from itercomp_rl.plan import Plan

ROLES = ("samplers", "judges", "rollers", "reward_learners", "policy_learners")
SIMULATED = 8  # of the ratios that look best
ROLLOUTS = 2_000  # played of each of these


@dataclass(frozen=True, kw_only=True)
class Work:
    """Seconds of one member's work in a run, phase by phase: what the roughest reckoning needs."""

    gallery: tuple[tuple[float, float], ...]  # of each round: drawing, ranking
    evaluation: tuple[float, float]  # in all: drawing, grading
    aspect: float  # one aspect's reward learner, in all rounds
    num_aspects: int
    rolling: float  # all rollouts
    num_updates: int
    times: StageTimes
    rollouts_per_update: int

    def seconds(self, counts: Mapping[str, int]) -> float:
        """At least so long a run takes whose phases follow one another."""
        samplers, judges = counts["samplers"], counts["judges"]
        per_learner = -(-self.num_aspects // counts["reward_learners"])
        update = self.times.update_s(self.rollouts_per_update, counts["policy_learners"])
        return (
            sum(max(draw / samplers, rank / judges) for draw, rank in self.gallery)
            + max(self.evaluation[0] / samplers, self.evaluation[1] / judges)
            + per_learner * self.aspect
            + max(self.rolling / counts["rollers"], self.num_updates * update)
        )

    def overlapped_seconds(self, counts: Mapping[str, int]) -> float:
        """At least so long it takes if everything goes on at once."""
        draw = sum(draw for draw, _ in self.gallery) + self.evaluation[0]
        rank = sum(rank for _, rank in self.gallery) + self.evaluation[1]
        update = self.times.update_s(self.rollouts_per_update, counts["policy_learners"])
        per_learner = -(-self.num_aspects // counts["reward_learners"])
        return max(
            draw / counts["samplers"],
            rank / counts["judges"],
            per_learner * self.aspect,
            self.rolling / counts["rollers"],
            self.num_updates * update,
        )


def work_of(plan: Plan, times: StageTimes) -> Work:
    """The work of a run, from its orders."""
    config, segments = plan.config, range(len(plan.segments()))
    orders = [[order for i in segments for order in plan.draw_orders(r, i)] for r in range(plan.rounds)]
    images = [sum(len(refs) for i in segments for refs in plan.rank_order(r, i).images) for r in range(plan.rounds)]
    held_out = plan.grading_orders(plan.evaluated())
    learning = times.reward_open_s + config.reward.updates * times.reward_update_s + times.reward_publish_s
    versions = plan.rounds if config.reward.refresh else 1
    return Work(
        gallery=tuple(
            (sum(times.draw_s(o.model, len(o.prompts)) for o in drawn), num * times.rank_image_s)
            for drawn, num in zip(orders, images, strict=True)
        ),
        evaluation=(
            sum(times.draw_s(order.model, len(order.prompts)) for order in held_out),
            sum(len(order.prompts) for order in held_out) * times.grade_image_s,
        ),
        aspect=versions * learning,
        num_aspects=len(config.prompts.aspects),
        rolling=plan.rounds * config.policy.updates * plan.rollouts_per_update * times.roll_s,
        num_updates=plan.rounds * config.policy.updates,
        times=times,
        rollouts_per_update=plan.rollouts_per_update,
    )


def with_counts(config: Config, counts: Mapping[str, int]) -> Config:
    """The config with other counts of actors."""
    roles = {name: replace(getattr(config.actors, name), count=count) for name, count in counts.items()}
    return replace(config, actors=replace(config.actors, **roles))


def counts_of(config: Config) -> dict[str, int]:
    """The counts of actors that a config states."""
    return {name: getattr(config.actors, name).count for name in ROLES}


def best_ratio(
    plan: LightPlan,
    times: StageTimes,
    devices: float,
    processes: Callable[[Config], Processes | None],
) -> tuple[Config, Forecast]:
    """The config with the counts that finish first, and its forecast; the config's own counts take part.

    Args:
        devices: GPUs, or CPU cores where the config names no GPU, that all roles together may hold.
        processes: who holds what under a config, None where it does not fit the nodes.
    """
    work = work_of(plan, times)
    all_counts = list(_all_counts(plan.config, devices))
    chosen = [counts_of(plan.config)]
    for reckon in (work.seconds, work.overlapped_seconds):
        ranked = sorted(all_counts, key=lambda counts: (reckon(counts), sum(counts.values())))
        chosen += _fitting(plan.config, ranked, processes, SIMULATED // 2)
    found: list[tuple[float, int, int]] = []
    configs = [with_counts(plan.config, counts) for counts in chosen]
    for place, config in enumerate(configs):
        held = processes(config)
        if held is not None:
            seconds = simulate(plan, times, held, most_rollouts=ROLLOUTS).seconds
            found.append((round(seconds, 6), sum(chosen[place].values()), place))
    if not found:
        raise ConfigError(
            f"no counts of actors fit {devices:g} devices: give more, or lower what actors.* ask for each"
        )
    best = configs[min(found)[2]]
    return best, simulate(plan, times, processes(best) or {})


def _fitting(
    config: Config, ranked: list[dict[str, int]], processes: Callable[[Config], Processes | None], num: int
) -> list[dict[str, int]]:
    found = []
    for counts in ranked[: 50 * num]:
        if processes(with_counts(config, counts)) is not None:
            found.append(counts)
            if len(found) == num:
                break
    return found


def _all_counts(config: Config, devices: float) -> Iterator[dict[str, int]]:
    """Counts that use the devices up, or nearly; large counts in steps of a twentieth."""
    gpus = any(getattr(config.actors, name).gpus for name in ROLES)
    share = {name: getattr(getattr(config.actors, name), "gpus" if gpus else "cpus") for name in ROLES}
    per_update = config.policy.batch // config.policy.rollout_batch
    ranks = [num for num in range(1, per_update + 1) if per_update % num == 0]
    for policy_learners in ranks:
        for reward_learners in range(1, len(config.prompts.aspects) + 1):
            left = devices - policy_learners * share["policy_learners"] - reward_learners * share["reward_learners"]
            for judges in _steps(left, share["judges"], coarse=1.5):
                rest = left - judges * share["judges"]
                for samplers in _steps(rest - share["rollers"], share["samplers"], coarse=1.05):
                    rollers = _most(rest - samplers * share["samplers"], share["rollers"])
                    if rollers >= 1:
                        yield {
                            "samplers": samplers,
                            "judges": judges,
                            "rollers": rollers,
                            "reward_learners": reward_learners,
                            "policy_learners": policy_learners,
                        }


def _most(left: float, share: float) -> int:
    return int(left / share + 1e-9) if share else 1


def _steps(left: float, share: float, coarse: float) -> list[int]:
    found, num = [], 1
    while num <= _most(left, share):
        found.append(num)
        num = max(num + 1, int(num * coarse))
    return found
