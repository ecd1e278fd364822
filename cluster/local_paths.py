"""Local paths of a config made absolute, so that every process and every later command means the same place."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from cluster.ray_job import has_working_copy
from itercomp_rl.config.rules.judging import is_rank_file
from itercomp_rl.config.schema import (
    OWN_POLICY,
    Config,
    EvaluationCompBenchConfig,
    FrozenRewardConfig,
    MemberConfig,
    PlannerConfig,
    VlmConfig,
)
from itercomp_rl.config.scorer_names import HTTP, PYTHON, parse_scorer, with_checkpoint
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.checkpoint_path import EMBEDDED
from itercomp_rl.items import ModelRef
from itercomp_rl.prompt_sets.hub_dataset import is_dataset
from itercomp_rl.store.address import is_url

_BENCH_MODELS = ("vqa", "clip", "detector", "depth")


def settled(config: Config) -> Config:
    """The config with its local paths absolute and ~ replaced, so that every process means the same files.

    These are run.dir, store.url, prompt files, rank files and models; a model that is no file or folder here, and does
    not begin as a path does, is a hub id and stays. A job's working folder is Ray's copy, which goes with the session:
    there `run.dir` and `store.url` are taken from the home folder, and what the copy holds stays relative to it ("./"),
    as every process of the job works in such a copy.
    Raises: ConfigError for a path of a home folder that does not exist.
    """
    gallery, judge, prompts, bench = config.gallery, config.judge, config.prompts, config.judge.t2i_compbench
    members, planners = gallery.members.items(), gallery.planners.items()
    bench_models = _models("judge.t2i_compbench", {name: getattr(bench, name) for name in _BENCH_MODELS})
    return replace(
        config,
        run=replace(config.run, dir=str(_stays("run.dir", config.run.dir))),
        store=replace(config.store, url=_store_url(config.store.url)),
        prompts=replace(
            prompts,
            train_file=_file("prompts.train_file", prompts.train_file),
            policy_file=_file("prompts.policy_file", prompts.policy_file),
            test_file=_file("prompts.test_file", prompts.test_file),
            validation_file=_file("prompts.validation_file", prompts.validation_file),
        ),
        gallery=replace(
            gallery,
            members={name: _member(f"gallery.members.{name}", member) for name, member in members},
            planners={name: _planner(f"gallery.planners.{name}", planner) for name, planner in planners},
        ),
        judge=replace(
            judge,
            first_round=_ranks(judge.first_round),
            reward_models=_scorers("judge.reward_models", judge.reward_models),
            t2i_compbench=replace(bench, spacy=_spacy(bench.spacy), **bench_models),
            vlm=_vlm(judge.vlm),
        ),
        reward=replace(
            config.reward,
            trunk=_scorer("reward.trunk", config.reward.trunk),
            preferences=[_here("reward.preferences", folder) for folder in config.reward.preferences],
        ),
        policy=replace(
            config.policy,
            model=_model("policy.model", config.policy.model),
            frozen_rewards={name: _term(name, term) for name, term in config.policy.frozen_rewards.items()},
        ),
        evaluation=replace(
            config.evaluation,
            reward_models=_scorers("evaluation.reward_models", config.evaluation.reward_models),
            metrics=_scorers("evaluation.metrics", config.evaluation.metrics),
            t2i_compbench=replace(
                config.evaluation.t2i_compbench,
                **_models("evaluation.t2i_compbench", _named(config.evaluation.t2i_compbench)),
            ),
        ),
    )


def settled_ref(ref: ModelRef) -> ModelRef:
    """A model that draws, with the local paths of its checkpoint and its layers absolute. Raises: ConfigError."""
    if ref.system == "endpoint":
        return ref
    grounding = ref.grounding and _model(f"grounding of {ref.name}", ref.grounding)
    return replace(ref, checkpoint=_model(f"model {ref.name}", ref.checkpoint), grounding=grounding)


def _member(key: str, member: MemberConfig) -> MemberConfig:
    if member.system == "endpoint":  # it has names of its own
        return member
    if member.system == "folder":
        return replace(member, model=_here(f"{key}.model", member.model))
    model = member.model if member.model == OWN_POLICY else _model(f"{key}.model", member.model)
    return replace(member, model=model, grounding=member.grounding and _model(f"{key}.grounding", member.grounding))


def _planner(key: str, planner: PlannerConfig) -> PlannerConfig:
    if planner.kind != "transformers" or not planner.model:  # an endpoint has names of its own
        return planner
    return replace(planner, model=_model(f"{key}.model", planner.model))


def _vlm(vlm: VlmConfig) -> VlmConfig:
    if vlm.url is not None or not vlm.model:  # an endpoint has names of its own
        return vlm
    return replace(vlm, model=_model("judge.vlm.model", vlm.model))


def _term(name: str, term: FrozenRewardConfig) -> FrozenRewardConfig:
    return replace(term, source=_scorer(f"policy.frozen_rewards.{name}.source", term.source))


def _scorers(key: str, sources: dict[str, str]) -> dict[str, str]:
    return {aspect: _scorer(f"{key}.{aspect}", source) for aspect, source in sources.items()}


def _scorer(key: str, source: str) -> str:
    """A reward model or scorer, of which the checkpoint is placed as `_model` does."""
    name = parse_scorer(source)
    if name.kind in (PYTHON, HTTP):
        return source
    place = _model(key, name.checkpoint)
    return source if place == name.checkpoint else with_checkpoint(name, place)


def _models(key: str, models: dict[str, str]) -> dict[str, str]:
    """Models by aspect or by name, each placed as `_model` does."""
    return {name: _model(f"{key}.{name}", model) for name, model in models.items()}


def _named(bench: EvaluationCompBenchConfig) -> dict[str, str]:
    models = {name: getattr(bench, name) for name in _BENCH_MODELS}
    return {name: model for name, model in models.items() if model is not None}


def _model(key: str, value: str) -> str:
    """The place of a model that is a file or folder here, or a hub id or shipped model as it is.

    What begins with /, ~, ./ or ../ is a path whether it is there or not: the hub is not searched for it.
    """
    if not value or value.startswith(EMBEDDED):
        return value
    is_path = value in (".", "..") or value.startswith(("/", "~", "./", "../"))
    place = _here(key, value)
    return place if is_path or Path(place).exists() else value


def _spacy(value: str) -> str:
    """spaCy takes an installed pipeline before a folder of the same name."""
    package = find_spec(value) if value.isidentifier() else None
    if package is not None and package.origin is not None:  # a mere folder, which is a package too, has no origin
        return value
    return _model("judge.t2i_compbench.spacy", value)


def _file(key: str, value: str | None) -> str | None:
    return value and (value if is_dataset(value) else _here(key, value))


def _ranks(value: str) -> str:
    """Rank files; the slash that tells a folder of them from a judge's name stays."""
    if not is_rank_file(value):
        return value
    return _here("judge.first_round", value) + ("/" if value.endswith("/") else "")


def _store_url(url: str | None) -> str | None:
    return url if url is None or is_url(url) else _stays("store.url", url).as_uri()


def _stays(key: str, value: str) -> Path:
    """Where a folder lies that a run writes to, and that must outlive a job."""
    start = _expanded(key, "~") if has_working_copy() else Path.cwd()
    return start / _expanded(key, value)


def _here(key: str, value: str) -> str:
    """The absolute path; in a job with a working folder, the relative one of what every process has in its copy."""
    path = _expanded(key, value)
    if not has_working_copy() or path.is_absolute():
        return str(Path.cwd() / path)
    in_home = _expanded(key, "~") / path
    return str(in_home) if in_home.exists() and not path.exists() else f"./{path}"


def _expanded(key: str, value: str) -> Path:
    """The path with ~ and ~user replaced. Raises: ConfigError, naming the setting, if there is no such home folder."""
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key} is {value!r}: there is no such home folder, give the whole path") from error
