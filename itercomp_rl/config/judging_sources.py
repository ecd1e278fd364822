"""What the judges of a config score by, and where a run would be graded by what it learns from.

A source is whatever gives a number: the checkpoint of a reward model, a model of T2I-CompBench, or a judge's own name
under an aspect. People's ranks and the embedded world's oracle are no sources: both are the truth that others are
measured by (docs/decisions/0040).
"""

from dataclasses import asdict, replace

from itercomp_rl.config.schema import Config

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
    taught = {model: "ranks the gallery" for models in ranking.values() for model in models}
    taught[config.reward.trunk] = "is reward.trunk, from which the reward models start"
    for aspect, models in grading.items():
        for model in sorted(models & taught.keys())[:1]:
            found.append(
                f"evaluation.judge grades {aspect} by {model}, which also {taught[model]}: its scores are not those of "
                "an independent judge."
            )
    return found


def _shared(sources: Sources) -> list[tuple[list[str], frozenset[str]]]:
    by_models: dict[frozenset[str], list[str]] = {}
    for aspect, models in sources.items():
        by_models.setdefault(models, []).append(aspect)
    return [(aspects, models) for models, aspects in by_models.items() if models and len(aspects) > 1]
