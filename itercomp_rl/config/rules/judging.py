"""Settings of the judges: who ranks and who evaluates, and what each of them can read and score."""

import math
from importlib.util import find_spec

from itercomp_rl.config.judging_sources import for_evaluation, self_grading
from itercomp_rl.config.rules.scorers import check_scorers
from itercomp_rl.config.rules.terms import one_of, require
from itercomp_rl.config.rules.vlm import check_vlm
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS

SCORERS = ("oracle", "reward", "t2i_compbench", "vlm")  # judges by score; itercomp_rl/judges/choice.py opens each
# Of the judges that cannot score just any aspect.
SCORED: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("oracle", "t2i_compbench", "vlm"), ("attribute", "spatial", "non_spatial")
)


def require_spacy() -> None:
    """Raises: ConfigError if spaCy, which T2I-CompBench's metrics read prompts with, is not installed."""
    if find_spec("spacy") is None:
        raise ConfigError("T2I-CompBench's metrics need spaCy: pip install 'itercomp-rl[compbench]'")


def is_rank_file(first_round: str) -> bool:
    """Whether judge.first_round names rank files and not a judge."""
    return first_round.endswith((".json", ".csv", "/"))


def check_judges(config: Config) -> None:
    """Who ranks, who evaluates, and whether they can for these prompts and aspects."""
    judge = config.judge
    if judge.first_round not in SCORERS and not is_rank_file(judge.first_round):
        raise ConfigError(
            f"judge.first_round is {judge.first_round!r}: must be one of {', '.join(SCORERS)}, or rank files: a path "
            "that ends in .json, .csv or (a folder of them) /"
        )
    one_of("judge.rule", judge.rule, ("official_fixed", "min_inversions"))
    one_of("judge.later_rounds", judge.later_rounds, SCORERS)
    one_of("evaluation.judge", config.evaluation.judge, SCORERS)
    for key, value in {
        "judge.first_round": judge.first_round,
        "judge.later_rounds": judge.later_rounds,
        "evaluation.judge": config.evaluation.judge,
    }.items():
        if value == "oracle" and not config.prompts.is_world:
            raise ConfigError(
                f"{key} is 'oracle' with prompts.source {config.prompts.source!r}: the oracle reads only the embedded "
                "world's prompts; set it to reward, t2i_compbench or vlm"
                + (", or give rank files" if key == "judge.first_round" else "")
            )
        known = SCORED.get(value, ())
        if known and (unknown := [aspect for aspect in config.prompts.aspects if aspect not in known]):
            raise ConfigError(
                f"{key} is {value!r}: it cannot score {unknown[0]!r} of prompts.aspects, only {', '.join(known)}"
            )
    if "t2i_compbench" in (judge.first_round, judge.later_rounds, config.evaluation.judge):
        require_spacy()
    check_vlm(judge.vlm, is_used="vlm" in (judge.first_round, judge.later_rounds, config.evaluation.judge))
    for key, by_aspect in (
        ("judge.reward_models", judge.reward_models),
        ("evaluation.reward_models", config.evaluation.reward_models),
        ("judge.margins", judge.margins),
    ):
        for aspect in by_aspect:
            one_of(key, aspect, ASPECTS)
    check_scorers(config)
    for aspect, margin in judge.margins.items():
        require(margin >= 0 and math.isfinite(margin), f"judge.margins.{aspect}", margin, "must be 0 or more")
    drop = config.evaluation.max_drop
    require(
        drop is None or (drop >= 0 and math.isfinite(drop)), "evaluation.max_drop", drop, "must be 0 or more, or null"
    )
    for key, bench in (("judge", judge.t2i_compbench), ("evaluation", for_evaluation(config).judge.t2i_compbench)):
        one_of(f"{key}.t2i_compbench.mode", bench.mode, ("official", "fixed"))
        require(0 < bench.threshold < 1, f"{key}.t2i_compbench.threshold", bench.threshold, "must lie between 0 and 1")
    weights = judge.pair_weights
    for name, value in (("judge", weights.judge), ("people", weights.people), ("imported", weights.imported)):
        require(value >= 0 and math.isfinite(value), f"judge.pair_weights.{name}", value, "must be 0 or more")
    if not config.reward.preferences:
        require(
            weights.judge + weights.people > 0, "judge.pair_weights", (0, 0), "one of judge and people must be above 0"
        )
    else:
        require(weights.imported > 0, "judge.pair_weights.imported", 0, "reward.preferences would teach nothing")
    if (found := self_grading(config)) and not config.evaluation.allow_self_grading:
        raise ConfigError(
            f"{found[0]} Name other models (judge.reward_models, evaluation.reward_models, evaluation.t2i_compbench) "
            "or another judge; if this is meant, set evaluation.allow_self_grading=true, and the report says so"
        )
