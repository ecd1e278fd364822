"""When a run has gone astray: a useless reward model, a policy worse than the base; and what is left of it."""

import logging
from dataclasses import replace

from itercomp_rl.errors import DivergedError
from itercomp_rl.items import RewardReport
from itercomp_rl.plan import Plan

log = logging.getLogger(__name__)


def trusted(report: RewardReport, min_accuracy: float, on_bad_reward: str) -> RewardReport:
    """The report, with weight 0 if its accuracy is too low and the config says to drop such an aspect.

    Raises: DivergedError if the config says to stop instead.
    """
    if report.accuracy >= min_accuracy or report.weight == 0:
        return report
    what = (
        f"the {report.aspect} reward model is right on {report.accuracy:.0%} of {report.num_pairs} held-out pairs, "
        f"reward.min_accuracy is {min_accuracy:.0%}"
    )
    if on_bad_reward == "stop":
        raise DivergedError(
            f"{what}: a reward no better than chance ruins a policy. Give it more pairs (prompts.gallery), more "
            "updates (reward.updates) or a better trunk (reward.trunk), or set reward.on_bad_reward=drop to "
            "go on without it"
        )
    log.warning("%s; this round goes on without it", what)
    return replace(report, weight=0.0)


def check_collapse(plan: Plan, gain_over_base: tuple[float, float], round_: int) -> None:
    """Raises: DivergedError if the held-out judge finds the round's policy worse than the base, beyond doubt."""
    most = plan.config.evaluation.max_drop
    gain, error = gain_over_base
    if most is None or gain + 3 * error >= -most:
        return
    raise DivergedError(
        f"round {round_}: the policy scores {-gain:.3f} ± {error:.3f} below the base on held-out prompts, and "
        f"evaluation.max_drop is {most:g}: its rewards led it astray. {last_good(plan, round_)}"
    )


def last_good(plan: Plan, round_: int) -> str:
    """Where a run that diverged in a round stands, and the way out."""
    kept = (
        f"policy version {round_ - 1} (that of round {round_ - 1})" if round_ else "the base, as no round was finished"
    )
    return (
        f"The last good policy is {kept}; everything committed is kept. Start a new run (run.name) with a smaller "
        "policy.engine.lr, more policy.pretraining_weight, or fewer policy.updates"
    )
