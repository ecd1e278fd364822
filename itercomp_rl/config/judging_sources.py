"""What the judges of a config score by, and where a run would be graded by what it learns from.

A source is whatever gives a number: the checkpoint of a reward model, a class or an address that scores, a model of
T2I-CompBench, or a judge's own name under an aspect. Two names of one source are one (`scorer_names.identity`).
People's ranks and the embedded world's oracle are no sources: both are the truth that others are measured by
(docs/decisions/0040).
"""

from dataclasses import asdict, replace

from itercomp_rl.config.schema import Config
from itercomp_rl.config.scorer_names import identity

# Aspect -> the models of T2I-CompBench that score it.
COMPBENCH_MODELS = {"attribute": ("vqa",), "spatial": ("detector", "depth"), "non_spatial": ("clip",)}

Sources = dict[str, frozenset[str]]  # by aspect


def for_evaluation(config: Config) -> Config:
    """The config whose judge.reward_models and judge.t2i_compbench are those that evaluation.judge grades with."""
    judge, own = config.judge, config.evaluation
    bench = {name: model for name, model in asdict(own.t2i_compbench).items() if model is not None}
    graded = replace(
        judge,
        reward_models=judge.reward_models | own.reward_models,
        t2i_compbench=replace(judge.t2i_compbench, **bench),
    )
    return replace(config, judge=graded)


def reward_sources(config: Config) -> dict[str, str]:
    """The checkpoint of the fixed reward model of every aspect."""
    return {aspect: config.judge.reward_models.get(aspect, config.reward.trunk) for aspect in config.prompts.aspects}


def fixed_scorers(config: Config) -> dict[str, str]:
    """The sources of the reward models and scorers that a run loads or asks, by the setting that names each."""
    found = {"reward.trunk": config.reward.trunk}
    for kind, key, models in (
        (config.judge.first_round, "judge.reward_models", reward_sources(config)),
        (config.evaluation.judge, "evaluation.reward_models", reward_sources(for_evaluation(config))),
    ):
        if kind == "reward":
            found |= {f"{key}.{aspect}": model for aspect, model in models.items() if model != config.reward.trunk}
    terms = config.policy.frozen_rewards.items()
    found |= {f"evaluation.metrics.{name}": source for name, source in config.evaluation.metrics.items()}
    return found | {f"policy.frozen_rewards.{name}.source": term.source for name, term in terms}


def ranking_sources(config: Config) -> Sources:
    """What the gallery's images are ranked by, in the first round and, unless the run's own models do it, later."""
    judge = config.judge
    found = _sources(config, judge.first_round)
    if judge.later_rounds == "reward" or config.run.rounds == 1:
        return found
    later = _sources(config, judge.later_rounds)
    return {aspect: found.get(aspect, frozenset()) | later.get(aspect, frozenset()) for aspect in found | later}


def evaluation_sources(config: Config) -> Sources:
    """What held-out images are graded by."""
    return _sources(for_evaluation(config), config.evaluation.judge)


def _sources(config: Config, kind: str) -> Sources:
    if kind == "oracle" or kind.endswith((".json", ".csv", "/")):
        return {}
    if kind == "reward":
        return {aspect: frozenset({model}) for aspect, model in reward_sources(config).items()}
    if kind == "t2i_compbench":
        return {
            aspect: frozenset(getattr(config.judge.t2i_compbench, name) for name in COMPBENCH_MODELS.get(aspect, ()))
            for aspect in config.prompts.aspects
        }
    # A vision-language model is asked other questions under every aspect.
    return {aspect: frozenset({f"{config.judge.vlm.model} under {aspect}"}) for aspect in config.prompts.aspects}


def self_grading(config: Config) -> list[str]:
    """A sentence for every way in which a run's judges cannot tell aspects apart or grade what they taught; often none.

    Example: ["judge.first_round ranks attribute and spatial by one and the same model, ImageReward.pt: ..."]
    """
    ranking, grading = ranking_sources(config), evaluation_sources(config)
    found = []
    for key, sources in (("judge.first_round", ranking), ("evaluation.judge", grading)):
        for names, models in _shared(sources):
            found.append(
                f"{key} scores {' and '.join(names)} by one and the same source, {' and '.join(sorted(models))}, which "
                "cannot tell these aspects apart."
            )
    taught = {identity(model): "ranks the gallery" for models in ranking.values() for model in models}
    for name, term in config.policy.frozen_rewards.items():
        taught[identity(term.source)] = f"is policy.frozen_rewards.{name}, which the policy climbs"
    taught[identity(config.reward.trunk)] = "is reward.trunk, from which the reward models start"
    for aspect, models in grading.items():
        for model in sorted(model for model in models if identity(model) in taught)[:1]:
            found.append(
                f"evaluation.judge grades {aspect} by {model}, which also {taught[identity(model)]}: its scores are "
                "not those of an independent judge."
            )
    for name, source in config.evaluation.metrics.items():
        if identity(source) in taught:
            found.append(
                f"evaluation.metrics.{name} is {source}, which also {taught[identity(source)]}: it is no independent "
                "measure."
            )
    return found


def _shared(sources: Sources) -> list[tuple[list[str], frozenset[str]]]:
    by_models: dict[frozenset[str], list[str]] = {}
    for aspect, models in sources.items():
        by_models.setdefault(frozenset(map(identity, models)), []).append(aspect)
    return [(aspects, sources[aspects[0]]) for models, aspects in by_models.items() if models and len(aspects) > 1]
