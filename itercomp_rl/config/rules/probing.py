"""Settings of the probes: how often a round's moving average is graded, and what follows from the grades."""

from itercomp_rl.config.rules.terms import one_of, require
from itercomp_rl.config.schema import Config


def check_probes(config: Config) -> None:
    """What probes draw, and that nothing waits for probes which are off; counts are in bounds already."""
    evaluation, patience = config.evaluation, config.policy.patience
    least = 2 * len(config.prompts.aspects)
    require(
        evaluation.probe_images >= least and evaluation.probe_images % 2 == 0,
        "evaluation.probe_images",
        evaluation.probe_images,
        f"must be even, as every prompt is drawn twice, and {least} or more: a prompt for each of prompts.aspects",
    )
    one_of("evaluation.keep", evaluation.keep, ("last", "best"))
    require(patience is None or patience >= 1, "policy.patience", patience, "must be 1 or more, or null for never")
    if evaluation.probe_every:
        return
    off = "needs probes, and evaluation.probe_every is 0: set it to the number of updates between two of them"
    require(evaluation.keep == "last", "evaluation.keep", evaluation.keep, f"{off}, or take last")
    require(patience is None, "policy.patience", patience, f"{off}, or take null")
