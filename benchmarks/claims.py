"""The method's own claims, each as arms of one experiment over seeds; an arm takes about as long as the quickstart.

python benchmarks/claims.py --json claims.json --arms e0-full e0-no-preferences --seeds 0 1 2 3 4
Every arm is the quickstart with one thing changed. Its rewards start from a trunk that was trained without binding,
places and relations, so that what a policy gains in them comes from the gallery's preferences. Runs that are there
already (under --dir) are read, not repeated. What each claim says, and what was found, stands in docs/claims.md.
"""

import argparse
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gains import gains_of, gains_over
from measures import measure, write
from variants import result

from itercomp_rl.config.load import load_config

QUICKSTART = load_config("quickstart")
_TOTAL = QUICKSTART.run.rounds * QUICKSTART.policy.updates
_MEMBERS = list(QUICKSTART.gallery.members)

START = ["reward.min_accuracy=0"]  # a reward model that learned nothing is climbed too: its cost is what is asked
# The updates of two rounds in one: what a first round learns from its gallery.
_ONE_ROUND = [*START, "run.rounds=1", f"policy.updates={2 * QUICKSTART.policy.updates}"]
_GROWING = [*START, "gallery.members.attribute.join_round=1"]
_GROWING += ["gallery.members.spatial.join_round=2", "gallery.members.relation.join_round=2"]
_LONG = [*START, "run.rounds=1", f"policy.updates={_TOTAL}"]


def _copies(model: str) -> list[str]:
    return [*_ONE_ROUND, *(f"gallery.members.{name}.model=embedded:{model}" for name in _MEMBERS)]


def _alone(aspect: str) -> list[str]:
    """One reward with the pull of all three."""
    whole = sum(QUICKSTART.reward.weights.values())
    return [*START, *(f"reward.weights.{name}={whole * (name == aspect):g}" for name in QUICKSTART.prompts.aspects)]


ARMS: dict[str, list[str]] = {
    "e0-full": START,
    "e0-no-preferences": [*START, "reward.updates=0"],
    "e1-five-models": _ONE_ROUND,
    "e1-copies-of-generalist": _copies("generalist"),
    "e1-copies-of-spatial": _copies("spatial"),  # the best of all members, by the mean over aspects
    "e2a-reward-places-newcomers": [*_GROWING, "judge.later_rounds=reward"],
    "e2b-judge-places-newcomers": _GROWING,
    "e2c-policy-stays-out": [*_GROWING, "gallery.policy_joins=false"],
    "e2d-frozen-rewards": [*_GROWING, "reward.refresh=false"],
    # A member that joins in a round that never comes draws nothing: the founders alone.
    "e2e-one-round-of-founders": [*_GROWING, *_LONG],
    "e2f-one-round-of-all": _LONG,
    **{f"e3-{aspect.replace('_', '-')}-alone": _alone(aspect) for aspect in QUICKSTART.prompts.aspects},
}
# (arm, the arm it must beat, by how much the claim says)
CLAIMS = (
    ("e0-full", "e0-no-preferences", 0.19),
    ("e1-five-models", "e1-copies-of-generalist", 0.05),
    ("e1-five-models", "e1-copies-of-spatial", 0.05),
    ("e2a-reward-places-newcomers", "e2e-one-round-of-founders", 0.05),
    ("e2a-reward-places-newcomers", "e2d-frozen-rewards", 0.0),
    ("e2b-judge-places-newcomers", "e2a-reward-places-newcomers", 0.0),
    ("e2b-judge-places-newcomers", "e2f-one-round-of-all", 0.05),
    ("e2a-reward-places-newcomers", "e2c-policy-stays-out", 0.0),
)


def main() -> None:
    """Run what is missing, then write the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--dir", type=Path, default=Path("runs/claims"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in options.seeds:  # every arm of one seed before the next: a run that is stopped has compared something
        for arm in options.arms:
            found.setdefault(arm, {})[seed] = result("quickstart", ARMS, arm, seed, options.dir)["aspects"]
            write(options.json, measures_of(found))


def measures_of(found: Mapping[str, Mapping[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Gains of each arm by seed and over seeds, then the claims' differences; `found`: aspects by arm and seed."""
    measures = []
    for arm, of_seed in found.items():
        for seed, aspects in of_seed.items():
            measures += [_gain(f"{arm} seed {seed}/{name} gain", *gain) for name, gain in gains_of(aspects).items()]
        over = gains_over([*of_seed.values()])
        measures += [_gain(f"{arm} {len(of_seed)} seeds/{name} gain", *gain) for name, gain in over.items()]
    means = {arm: {seed: gains_of(tree)["mean"][0] for seed, tree in of_seed.items()} for arm, of_seed in found.items()}
    for arm, other, aim in CLAIMS:
        if arm in means and other in means and (difference := differences_of(arm, other, means)):
            measures.append(_gain(f"{arm} over {other}/mean gain", *difference, aim=aim))
    return measures


def differences_of(arm: str, other: str, means: Mapping[str, Mapping[int, float]]) -> tuple[float, float] | None:
    """Mean difference of two arms on the same seeds with its standard error; None for fewer than two seeds."""
    apart = [means[arm][seed] - means[other][seed] for seed in means[arm] if seed in means[other]]
    return (fmean(apart), stdev(apart) / math.sqrt(len(apart))) if len(apart) > 1 else None


def _gain(name: str, value: float, error: float, aim: float | None = None) -> dict[str, Any]:
    return measure(f"claims/{name}", value, "score", better="higher", aim=aim, se=error)


if __name__ == "__main__":
    main()
