"""What probes of a round's moving average found: the judge's scores against the rewards that the policy climbs.

A probe is drawn by samplers and graded by a judge while the policy learns; loop/probes.py orders it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.evaluation.statistics import Mean, clustered_mean
from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import POLICY, PROBE_GRADES
from itercomp_rl.store.store import Store

Values = Mapping[str, Sequence[float]]  # of each aspect, a value for every image whose prompt is about it


def clipped_share(image: NDArray[np.uint8]) -> float:
    """Saturation: the share of an image's colour values [H, W, 3] that are as dark or as bright as can be, 0 or 255."""
    return float(((image == 0) | (image == 255)).mean())


def distances(prompts: Sequence[str], images: Sequence[NDArray[np.uint8]]) -> list[tuple[str, float]]:
    """Diversity: (prompt, distance) for every prompt with two images or more.

    The distance is the mean over pairs of a prompt's images of their mean absolute difference in colour values, 0..1.
    It falls where a policy comes to draw one picture per prompt, whatever the seed.
    """
    of_prompt: dict[str, list[NDArray[np.int16]]] = {}  # signed, so that differences are
    for prompt, image in zip(prompts, images, strict=True):
        of_prompt.setdefault(prompt, []).append(image.astype(np.int16))
    return [
        (prompt, fmean(float(np.abs(one - other).mean()) / 255 for one, other in combinations(own, 2)))
        for prompt, own in of_prompt.items()
        if len(own) > 1
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the judge and the reward models said of the images of one probe."""

    update: int
    judge: Mapping[str, Sequence[tuple[str, float]]]  # prompt, score
    rewards: Values  # standardised, of the reward models that the policy climbs
    reference: Values  # of those that stay the same for the whole run
    saturation: float
    diversity: float

    @property
    def scores(self) -> dict[str, Mean]:
        """The judge's mean score per aspect, its error clustered by prompt."""
        return {
            aspect: clustered_mean([score for _, score in own], [prompt for prompt, _ in own])
            for aspect, own in self.judge.items()
        }

    @property
    def score(self) -> float:
        """The mean over aspects of the judge's mean scores; below all others where no image could be graded."""
        return fmean(mean.mean for mean in self.scores.values()) if self.judge else -np.inf


def load_probe(store: Store, plan: Plan, round_: int, update: int) -> Probe:
    """A graded probe of a round. Raises: MissingRecordError if a part of it is not graded."""
    parts = [store.get(PROBE_GRADES, order.id).attrs for order in plan.probe_orders(round_, update)]
    rows = [row for part in parts for row in part["rows"]]
    apart = [distance for part in parts for _, distance in part["distances"]]

    def of_aspects(name: str) -> dict[str, list[float]]:
        named = {
            aspect: [row[name][aspect] for row in rows if aspect in row[name]] for aspect in plan.config.prompts.aspects
        }
        return {aspect: values for aspect, values in named.items() if values}

    return Probe(
        update=update,
        judge={
            aspect: [(row["prompt"], row["grades"][aspect]) for row in rows if aspect in row["grades"]]
            for aspect in of_aspects("grades")
        },
        rewards=of_aspects("rewards"),
        reference=of_aspects("reference"),
        saturation=fmean(row["clipped"] for row in rows) if rows else 0.0,
        diversity=fmean(apart) if apart else 0.0,
    )


def gains(first: Probe, probe: Probe) -> dict[str, tuple[float, float]]:
    """Per aspect how far the reward and the judge have risen since the round's first probe.

    Each is measured in standard deviations of its scores in that first probe, since the two have scales of their own.
    An aspect without a reward model to climb, or whose scores did not differ in the first probe, is left out.
    """
    found = {}
    for aspect, before in first.rewards.items():
        judged = [[score for _, score in one.judge.get(aspect, ())] for one in (first, probe)]
        now = probe.rewards.get(aspect)
        if now and all(judged) and pstdev(before) > 0 and pstdev(judged[0]) > 0:
            reward = (fmean(now) - fmean(before)) / pstdev(before)
            found[aspect] = (reward, (fmean(judged[1]) - fmean(judged[0])) / pstdev(judged[0]))
    return found


def probe_values(first: Probe, probe: Probe, plan: Plan) -> dict[str, float]:
    """What metrics.jsonl has of a probe, without `probe/`; first: the probe that the round began with."""
    policy = plan.config.policy
    found = {"update": float(probe.update), "score": probe.score}
    for aspect, mean in probe.scores.items():
        found |= {f"score_{aspect}": mean.mean, f"images_{aspect}": float(mean.n)}
    for aspect, values in probe.rewards.items():
        target = policy.targets.get(aspect, policy.target)
        found[f"reward_{aspect}"] = fmean(values)
        found[f"share_past_target_{aspect}"] = fmean(float(value >= target) for value in values)
    found |= {f"reference_{aspect}": fmean(values) for aspect, values in probe.reference.items()}
    found |= {f"gap_{aspect}": reward - judge for aspect, (reward, judge) in gains(first, probe).items()}
    return found | {"diversity": probe.diversity, "saturation": probe.saturation}


def probes_tree(store: Store, plan: Plan) -> list[dict[str, Any]]:
    """Every round's graded probes, as results.json has them; `kept_update` is null until the round is published."""
    found = []
    for round_ in range(plan.rounds):
        done = [
            update
            for update in plan.probe_updates
            if all(store.has(PROBE_GRADES, order.id) for order in plan.probe_orders(round_, update))
        ]
        probes = [load_probe(store, plan, round_, update) for update in done]
        if not probes:
            continue
        published = weights.find(store, POLICY, round_)
        attrs = published.attrs if published else {}
        found.append(
            {
                "round": round_,
                "kept_update": attrs.get("kept_update", attrs.get("updates")),
                "probes": [_tree(probes[0], probe, plan) for probe in probes],
            }
        )
    return found


def _tree(first: Probe, probe: Probe, plan: Plan) -> dict[str, Any]:
    values = {name: round(value, 5) for name, value in probe_values(first, probe, plan).items()}
    scores = {aspect: mean.tree() for aspect, mean in probe.scores.items()}
    gained = {aspect: {"reward": round(r, 5), "judge": round(j, 5)} for aspect, (r, j) in gains(first, probe).items()}
    return values | {"update": probe.update, "scores": scores, "gains": gained}
