"""How long each stage of a run takes: read from a file, or measured by an earlier run.

A run keeps what every piece of work took in times.json; `itercomp plan` predicts other counts of actors from it.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ModelRef
from itercomp_rl.observability.work_times import FILE, drawn_by, load_work
from itercomp_rl.plan import Plan

DEFAULT = "default"  # the time of every model that is not named


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds of one member's work: StageTimes(draw_image_s={"default": 0.5, "flux": 2.0}, roll_s=3.0)."""

    draw_image_s: Mapping[str, float] = field(default_factory=dict)  # one image, by member; "policy": every policy
    draw_order_s: float = 0.0  # what a segment costs besides its images, such as loading the model
    rank_image_s: float = 0.0
    grade_image_s: float = 0.0
    reward_open_s: float = 0.0
    reward_update_s: float = 0.0
    reward_publish_s: float = 0.0
    roll_s: float = 0.0  # one rollout of policy.rollout_batch images
    load_s: float = 0.0  # what the first rollout under a new version costs a roller besides
    learn_rollout_s: float = 0.0  # forward and backward passes of one rollout, by one rank
    learn_update_s: float = 0.0  # what an update costs besides: step, exchange, publishing
    policy_open_s: float = 0.0
    policy_publish_s: float = 0.0
    call_s: float = 0.0  # the driver's own time per order; orders pass through it one after another
    spread: float = 0.0  # 0..1: a time is drawn evenly from (1 - spread)..(1 + spread) times what is said here

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            for number in value.values() if isinstance(value, dict) else [value]:
                if not number >= 0:
                    raise ConfigError(f"stage time {key} is {number!r}: must be 0 or more")
        if self.spread > 1:
            raise ConfigError(f"stage time spread is {self.spread!r}: must be from 0 to 1")

    def draw_s(self, model: ModelRef, num_images: int) -> float:
        """Seconds of one draw order."""
        image_s = self.draw_image_s.get(drawn_by(model), self.draw_image_s.get(DEFAULT, 0.0))
        return self.draw_order_s + num_images * image_s

    def update_s(self, num_rollouts: int, num_ranks: int) -> float:
        """Seconds of one update of the policy by so many ranks."""
        return self.learn_update_s + num_rollouts / num_ranks * self.learn_rollout_s


def load_times(file: Path) -> StageTimes:
    """Stage times from YAML or JSON. Raises: ConfigError naming the key."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except Exception as error:  # PyYAML's errors and OSError alike: all mean the file cannot be read
        raise ConfigError(f"stage times {str(file)!r} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"stage times {str(file)!r} must be a mapping such as 'roll_s: 3.0'")
    names = [entry.name for entry in fields(StageTimes)]
    found: dict[str, Any] = {}  # numbers, or numbers by model
    for key, value in tree.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1) or names
            raise ConfigError(f"stage times {str(file)!r}: unknown key {key}; did you mean {near[0]}?")
        if key == "draw_image_s" and isinstance(value, int | float):
            value = {DEFAULT: value}
        is_number = all(
            isinstance(number, int | float) for number in (value.values() if isinstance(value, dict) else [value])
        )
        if not is_number or isinstance(value, dict) != (key == "draw_image_s"):
            raise ConfigError(f"stage times {str(file)!r}: {key} is {value!r}: must be seconds")
        found[str(key)] = value
    return StageTimes(**found)


def measured_times(folder: Path, plan: Plan) -> StageTimes:
    """Mean stage times of the run in `folder`, whose plan is given.

    The whole time of an update is taken to shrink with more ranks, as one run cannot tell what part of it does not.
    Raises: ConfigError if the run has not learned yet.
    """
    work = load_work(folder).work
    draws = {kind.partition(" ")[2]: entry for kind, entry in work.items() if kind.startswith("sampler.draw ")}
    if not draws or "policy_learner.update" not in work:
        raise ConfigError(
            f"{str(folder)!r} has measured no draws and updates ({FILE}): let it run until its policy learns, or state "
            "stage times by --times FILE"
        )
    orders = plan.evaluation_orders(plan.policy(-1))
    per_grade = sum(len(order.prompts) for order in orders) / max(1, len(orders))
    count, total = (sum(entry[name] for entry in draws.values()) for name in ("items", "seconds"))
    return StageTimes(
        draw_image_s={DEFAULT: total / count, **{name: _mean(draws, name) for name in draws}},
        rank_image_s=_mean(work, "judge.rank"),
        grade_image_s=_mean(work, "judge.grade") / per_grade,
        reward_open_s=_mean(work, "reward_learner.open"),
        reward_update_s=_mean(work, "reward_learner.advance"),
        reward_publish_s=_mean(work, "reward_learner.publish"),
        roll_s=_mean(work, "roller.roll"),
        learn_rollout_s=_mean(work, "policy_learner.update"),
        policy_open_s=_mean(work, "policy_learner.open"),
        policy_publish_s=_mean(work, "policy_learner.publish"),
    )


def _mean(work: Mapping[str, Mapping[str, float]], kind: str) -> float:
    entry = work.get(kind)
    return entry["seconds"] / entry["items"] if entry and entry["items"] else 0.0
