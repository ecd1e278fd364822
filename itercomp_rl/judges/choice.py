"""Which judge a config asks for, by its name; the models that a judge needs are loaded here and nowhere sooner."""

from collections.abc import Callable

import torch

from itercomp_rl.config.judging_sources import reward_sources
from itercomp_rl.config.rules.judging import SCORERS
from itercomp_rl.config.schema import Config
from itercomp_rl.config.scorer_names import HTTP, parse_scorer
from itercomp_rl.judges.oracle import OracleScorer
from itercomp_rl.judges.rank_files import RankFileJudge, load_ranks
from itercomp_rl.judges.reward import RewardScorer
from itercomp_rl.judges.scoring import ByScore, GroupJudge, ImageScorer
from itercomp_rl.store.store import Store

ASKED_PROMPTS = 8  # prompts of which a judge behind an address is asked at a time, so that many requests are in flight


def open_scorer(kind: str, config: Config, device: torch.device, store: Store) -> ImageScorer:
    """The scorer of a name in SCORERS; a vision-language model's answers are kept in `store`."""
    if kind == "oracle":
        return OracleScorer()
    if kind == "vlm":
        return _vlm_scorer(config, device, store)
    if kind == "reward":
        return RewardScorer(reward_sources(config), device)
    assert kind == "t2i_compbench", kind  # checked with the config
    from itercomp_rl.judges.t2i_compbench import CompBenchScorer  # spaCy and four models: only who asks for it

    return CompBenchScorer(config.judge.t2i_compbench, config.prompts.aspects, device)


def _vlm_scorer(config: Config, device: torch.device, store: Store) -> ImageScorer:
    from itercomp_rl.judges.vlm.scorer import (  # HTTP client or model: only who asks for it
        VlmScorer,
        open_vlm,
        usage_of,
    )

    settings = config.judge.vlm
    vlm = open_vlm(settings, device, usage_of(settings, store, config.actors.judges.count))
    return VlmScorer(settings, config.prompts.aspects, store, vlm)


def open_judge(kind: str, config: Config, scorer: Callable[[str], ImageScorer]) -> GroupJudge:
    """A judge by score, by what `scorer` gives for its name, or the rank files at the path `kind`."""
    if kind in SCORERS:
        return ByScore(scorer(kind), ASKED_PROMPTS if _is_asked(kind, config) else 1)
    aspects = config.prompts.aspects
    return RankFileJudge(load_ranks(kind, aspects, list(config.gallery.members)), aspects)


def _is_asked(kind: str, config: Config) -> bool:
    """Whether a judge by score waits for answers of another process."""
    if kind == "reward":
        return any(parse_scorer(source).kind == HTTP for source in reward_sources(config).values())
    return kind == "vlm"
