"""Which judge a config asks for, by its name; the models that a judge needs are loaded here and nowhere sooner."""

import torch

from itercomp_rl.config.rules.judging import SCORERS
from itercomp_rl.config.schema import Config
from itercomp_rl.judges.oracle import OracleScorer
from itercomp_rl.judges.rank_files import RankFileJudge, load_ranks
from itercomp_rl.judges.reward import RewardScorer
from itercomp_rl.judges.scoring import ByScore, GroupJudge, ImageScorer


def open_scorer(kind: str, config: Config, device: torch.device) -> ImageScorer:
    """The scorer of a name in SCORERS."""
    if kind == "oracle":
        return OracleScorer()
    if kind == "reward":
        return RewardScorer(reward_sources(config), device)
    assert kind == "t2i_compbench", kind  # checked with the config
    from itercomp_rl.judges.t2i_compbench import CompBenchScorer  # spaCy and four models: only who asks for it

    return CompBenchScorer(config.judge.t2i_compbench, config.prompts.aspects, device)


def open_judge(kind: str, config: Config, device: torch.device) -> GroupJudge:
    """A judge by score, or the rank files at the path `kind`."""
    if kind in SCORERS:
        return ByScore(open_scorer(kind, config, device))
    aspects = config.prompts.aspects
    return RankFileJudge(load_ranks(kind, aspects, list(config.gallery.members)), aspects)


def reward_sources(config: Config) -> dict[str, str]:
    """The checkpoint of the fixed reward model of every aspect."""
    return {aspect: config.judge.reward_models.get(aspect, config.reward.trunk) for aspect in config.prompts.aspects}
