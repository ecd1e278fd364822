"""Scores of a run's models from the grades in its store, and gains paired with the base, with standard errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from itercomp_rl.evaluation.statistics import Mean, clustered_mean
from itercomp_rl.items import ModelRef
from itercomp_rl.plan import Plan
from itercomp_rl.store.kinds import GRADES
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """One image's grade of one aspect; images at the same place, of the same prompt and seed, make the pairs.

    passed is None where the judge has no score at which an image passes.
    """

    place: int
    prompt: str
    score: float
    passed: bool | None


def load_grades(store: Store, plan: Plan, model: ModelRef, split: str = "test") -> dict[str, list[Graded]]:
    """Grades of a model's held-out images per aspect, in the order every model shares."""
    return grades_of(store, [order.id for order in plan.evaluation_orders(model, split)])


def grades_of(store: Store, ids: Sequence[str]) -> dict[str, list[Graded]]:
    """Grades of evaluation segments per aspect."""
    found: dict[str, list[Graded]] = {}
    rows = [row for id_ in ids for row in store.get(GRADES, id_).attrs["rows"]]
    for place, row in enumerate(rows):
        for aspect, (score, passed) in row["grades"].items():
            found.setdefault(aspect, []).append(Graded(place=place, prompt=row["prompt"], score=score, passed=passed))
    return found


def off_palette_mean(store: Store, ids: Sequence[str]) -> Mean | None:
    """Mean share of pixels that belong to no colour of the world: artefacts. None if no image was graded."""
    rows = [row for id_ in ids for row in store.get(GRADES, id_).attrs["rows"] if "off_palette" in row]
    return clustered_mean([row["off_palette"] for row in rows], [row["prompt"] for row in rows]) if rows else None


def load_metric(store: Store, plan: Plan, model: ModelRef, name: str) -> list[Graded]:
    """Load the scores that one of evaluation.metrics gave a model's held-out images, in the order every model shares.

    Images without a score are left out.
    """
    ids = [order.id for order in plan.evaluation_orders(model)]
    rows = [row for id_ in ids for row in store.get(GRADES, id_).attrs["rows"]]
    return [
        Graded(place=place, prompt=row["prompt"], score=row["metrics"][name], passed=None)
        for place, row in enumerate(rows)
        if name in row.get("metrics", {})
    ]


def score(grades: Sequence[Graded]) -> Mean:
    """Mean gradual score."""
    return clustered_mean([grade.score for grade in grades], [grade.prompt for grade in grades])


def gain(grades: Sequence[Graded], base: Sequence[Graded]) -> Mean:
    """Mean of the differences between images of the same prompt and seed; one that a model lacks makes no pair."""
    at = {b.place: b for b in base}
    pairs = [(g, at[g.place]) for g in grades if g.place in at]
    if any(g.prompt != b.prompt for g, b in pairs) or not pairs:
        raise ValueError("the two models were not evaluated on the same prompts")
    return clustered_mean([g.score - b.score for g, b in pairs], [g.prompt for g, _ in pairs])


def preferences_add(
    policy: Mapping[str, Sequence[Graded]], control: Mapping[str, Sequence[Graded]], aspects: Sequence[str]
) -> dict[str, Any]:
    """Per aspect the paired difference between a run's policy and its control's, of the same prompts and seeds."""
    return {aspect: gain(policy[aspect], control[aspect]).tree() for aspect in aspects if aspect in policy}


def mean_gain(store: Store, plan: Plan, round_: int) -> tuple[float, float]:
    """A round's policy over the base on held-out images, mean over aspects; its standard error at most."""
    base, policy = (load_grades(store, plan, plan.policy(version)) for version in (-1, round_))
    gains = [gain(policy[aspect], base[aspect]) for aspect in plan.config.prompts.aspects if aspect in base]
    # Aspects share images, so that their errors may go the same way: the mean's error is no larger than their mean.
    return float(np.mean([found.mean for found in gains])), float(np.mean([found.se for found in gains]))


def aspects_tree(store: Store, plan: Plan, split: str = "test") -> dict[str, Any]:
    """The `aspects` object of results.json, of every model evaluated so far."""
    refs = {ref.name: ref for ref in plan.evaluated()}
    base = plan.policy(-1).name
    rounds = [plan.policy(r).name for r in range(plan.rounds)]
    done = {
        name: load_grades(store, plan, ref, split)
        for name, ref in refs.items()
        if (orders := plan.evaluation_orders(ref, split)) and all(store.has(GRADES, order.id) for order in orders)
    }
    return aspects_of(done, base, [name for name in rounds if name in done])


def aspects_of(
    grades: Mapping[str, Mapping[str, Sequence[Graded]]], base: str, rounds: Sequence[str]
) -> dict[str, Any]:
    """Scores per aspect of the base, the rounds and everyone else, and the last round's paired gain.

    A gallery member without a graded image under some aspect, as a folder may be, is left out: it has no mean.
    """
    policies = {base, *rounds}
    grades = {name: by for name, by in grades.items() if name in policies or by.keys() >= grades[base].keys()}
    found = {}
    for aspect in grades[base]:
        strict = {
            name: [replace(g, score=float(g.passed)) for g in by[aspect] if g.passed is not None]
            for name, by in grades.items()
        }
        found[aspect] = {
            "base": score(grades[base][aspect]).tree(),
            "rounds": [score(grades[name][aspect]).tree() for name in rounds],
            "gallery": {
                name: score(by[aspect]).tree() for name, by in grades.items() if name != base and name not in rounds
            },
            "paired_gain": gain(grades[rounds[-1]][aspect], grades[base][aspect]).tree() if rounds else None,
            "paired_gain_by_round": [gain(grades[name][aspect], grades[base][aspect]).tree() for name in rounds],
            "pass_rate": {name: score(by).tree() for name, by in strict.items() if by},
        }
    return found
