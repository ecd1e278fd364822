"""Fixed scorers: whether each is named as it must be, and may be used where it is named."""

import math
import re

from itercomp_rl.config.rules.endpoint import check_address
from itercomp_rl.config.rules.terms import require
from itercomp_rl.config.schema import Config
from itercomp_rl.config.scorer_names import CLASS_PATH, HTTP, PYTHON, identity, parse_scorer
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS

_TERM = re.compile(r"[a-z][a-z0-9_]*")  # it becomes part of names in results and logs


def check_scorers(config: Config) -> None:
    """Raises: ConfigError for a scorer whose name says nothing, or that cannot do what its place asks for."""
    for key, by_aspect in (
        ("judge.reward_models", config.judge.reward_models),
        ("evaluation.reward_models", config.evaluation.reward_models),
    ):
        for aspect, source in by_aspect.items():
            _check_name(f"{key}.{aspect}", source)
    for name, source in config.evaluation.metrics.items():
        key = f"evaluation.metrics.{name}"
        require(
            bool(_TERM.fullmatch(name)), key, name, "a metric's name has small letters, digits and _, a letter first"
        )
        _check_name(key, source)
    _check_trunk(config.reward.trunk)
    _check_frozen(config)


def _check_name(key: str, source: str) -> None:
    require(bool(source.strip()), key, source, "name a scorer, or leave the key out")
    kind, checkpoint = parse_scorer(source)
    if kind == HTTP:
        check_address(key, checkpoint, "give the address alone, of a scorer that needs no key")
    if kind == PYTHON and not CLASS_PATH.fullmatch(checkpoint):
        raise ConfigError(f"{key} is {source!r}: must be python:package.module:Class")


def _check_trunk(trunk: str) -> None:
    _check_name("reward.trunk", trunk)
    kind = parse_scorer(trunk).kind
    reasons = {
        HTTP: "runs in a process of its own, so that no weights of it can learn here",
        PYTHON: "may compute anything, while a trunk must be a model whose weights are published and exported",
    }
    if kind in reasons:
        raise ConfigError(
            f"reward.trunk is {trunk!r}, a scorer that {reasons[kind]}: take it as a judge (judge.reward_models), from "
            "which reward models then learn, or for the evaluation (evaluation.reward_models)"
        )


def _check_frozen(config: Config) -> None:
    named: dict[str, str] = {}
    for name, term in config.policy.frozen_rewards.items():
        key = f"policy.frozen_rewards.{name}"
        require(bool(_TERM.fullmatch(name)), key, name, "a term's name has small letters, digits and _, a letter first")
        require(name not in ASPECTS, key, name, "is an aspect, whose reward model has this name: choose another")
        _check_name(f"{key}.source", term.source)
        if parse_scorer(term.source).kind == HTTP:
            raise ConfigError(
                f"{key}.source is {term.source!r}: no gradient comes back over HTTP, so the policy cannot climb it; "
                "take it as a judge (judge.reward_models), which the reward models then learn from"
            )
        weight, target = term.weight, term.target
        require(weight > 0 and math.isfinite(weight), f"{key}.weight", weight, "must be above 0, or leave the term out")
        require(target is None or math.isfinite(target), f"{key}.target", target, "must be finite, or null")
        other = named.setdefault(identity(term.source), name)
        require(
            other == name,
            f"{key}.source",
            term.source,
            f"is what policy.frozen_rewards.{other} climbs already: raise that one's weight instead",
        )
