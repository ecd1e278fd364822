"""The schema of a run: one tree of dataclasses, read by OmegaConf; unknown keys and impossible values are errors here.

Units and reasons of every key stand in configs/base.yaml. Imports neither torch nor ray: a wrong config fails at once.
"""

import difflib
import math
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    name: str
    dir: str
    seed: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    url: str | None
    durable: bool


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    colours: list[str]
    shapes: list[str]
    relations: list[str]


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    source: str
    gallery: int
    policy: int
    world: WorldConfig
    train_file: str | None
    test_file: str | None
    aspects: list[str]


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    model: str
    num_steps: int
    guidance: float = 1.0
    join_round: int = 0


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    members: dict[str, MemberConfig]
    policy_joins: bool
    batch: int
    segment: int
    dtype: str
    max_loaded: int


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    first_round: str
    later_rounds: str
    rule: str
    margin: float
    flip: float


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    kind: str
    zero_stage: int
    dtype: str
    lr: float
    weight_decay: float
    grad_clip: float
    ema: float


@dataclass(frozen=True, kw_only=True)
class RewardLearningConfig:
    trunk: str
    fix_rate: float
    updates: int
    batch: int
    noise: float
    held_out: float
    min_accuracy: float
    on_bad_reward: str
    weights: dict[str, float]
    refresh: bool
    engine: EngineConfig


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    model: str
    num_steps: int
    guidance: float
    sampler: str
    mid_low: int
    mid_high: int
    updates: int
    batch: int
    rollout_batch: int
    max_policy_lag: int
    start_from: str
    target: float
    loss_scale: float
    pretraining_weight: float
    pretraining_batch: int
    shift: int
    noise: float
    checkpoint_every: int
    engine: EngineConfig


@dataclass(frozen=True, kw_only=True)
class RoleConfig:
    count: int
    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    layout: str
    processes: int
    threads: int
    device: str
    samplers: RoleConfig
    judges: RoleConfig
    rollers: RoleConfig
    reward_learners: RoleConfig
    policy_learners: RoleConfig
    start_timeout_s: float
    progress_timeout_s: float
    max_retries: int


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    images_per_aspect: int
    seen_images_per_aspect: int
    seed: int
    grid_prompts: int


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    tensorboard: bool


@dataclass(frozen=True, kw_only=True)
class Config:
    run: RunConfig
    store: StoreConfig
    prompts: PromptsConfig
    gallery: GalleryConfig
    judge: JudgeConfig
    reward: RewardLearningConfig
    policy: PolicyConfig
    actors: ActorsConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig

    @property
    def run_folder(self) -> Path:
        """Where reports, logs and (by default) the store of this run lie."""
        return Path(self.run.dir).expanduser().absolute() / self.run.name

    @property
    def store_url(self) -> str:
        """The store's address."""
        return self.store.url or (self.run_folder / "store").as_uri()


def preset(name: str) -> Path:
    """The shipped config `name` ("quickstart"), from a checkout or an installed package."""
    checkout = Path(__file__).resolve().parent.parent / "configs"
    folder = checkout if checkout.is_dir() else Path(str(resources.files("itercomp_rl") / "presets"))
    return folder / f"{name}.yaml"


def load_config(file: str | Path, overrides: list[str] | None = None) -> Config:
    """base.yaml, then `file`, then dotlist overrides ("policy.updates=10"), checked.

    Raises: ConfigError naming the key, the value and the way out.
    """
    path = Path(file)
    if not path.exists() and path.suffix == "" and preset(str(file)).exists():
        path = preset(str(file))
    if not path.is_file():
        raise ConfigError(f"config {str(file)!r} does not exist: give a YAML file or one of {', '.join(_presets())}")
    base = _read(preset("base"))
    merged = _merge(base, _read(path), str(path))
    for text in overrides or []:
        if "=" not in text or text.startswith(("+", "-", "~")):
            raise ConfigError(f"override {text!r} is not of the form key=value, such as policy.updates=10")
        try:
            override = OmegaConf.from_dotlist([text])
        except Exception as error:  # OmegaConf raises PyYAML's own classes here
            raise ConfigError(f"override {text!r} cannot be read: {error}") from error
        merged = _merge(merged, override, f"override {text!r}")
    return config_from(OmegaConf.to_container(merged, resolve=True))


def config_from(tree: Any) -> Config:
    """A checked Config from a plain tree that states every key."""
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(tree)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, Config)
    check(config)
    return config


def to_tree(config: Config) -> dict[str, Any]:
    """The plain tree of a config, for JSON and YAML."""
    tree = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _presets() -> list[str]:
    return sorted(path.stem for path in preset("base").parent.glob("*.yaml") if path.stem != "base")


def _read(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # PyYAML's errors and OSError alike: all mean the file cannot be read
        raise ConfigError(f"config {str(path)!r} cannot be read: {error}") from error
    if isinstance(tree, ListConfig):
        raise ConfigError(f"config {str(path)!r} is a list; it must be a mapping such as 'run: {{name: first}}'")
    return tree


# Under these keys a file names new entries; everywhere else a key unknown to base.yaml is a mistake.
_OPEN = {"gallery.members": MemberConfig}


def _merge(base: DictConfig, extra: Any, where: str) -> DictConfig:
    _known(OmegaConf.to_container(extra), Config, "", where)
    if (
        isinstance(extra, DictConfig)
        and OmegaConf.select(extra, "gallery.members") is not None
        and where.endswith(".yaml")
    ):
        OmegaConf.update(base, "gallery.members", {}, merge=False)  # a file's gallery replaces the base's
    merged = OmegaConf.merge(base, extra)
    assert isinstance(merged, DictConfig)
    return merged


def _known(tree: Any, schema: Any, prefix: str, where: str) -> None:
    if not isinstance(tree, dict):
        if is_dataclass(schema):
            raise ConfigError(
                f"{where}: {prefix} is {tree!r}; it must be a mapping with {', '.join(f.name for f in fields(schema))}"
            )
        return
    names = {f.name: f.type for f in fields(schema)}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {prefix + '.' if prefix else ''}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key {name}; {hint}")
        if name in _OPEN and isinstance(value, dict):
            for entry, content in value.items():
                _known(content, _OPEN[name], f"{name}.{entry}", where)
        elif is_dataclass(names[key]):
            _known(value, names[key], name, where)


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {value!r}: {rule}")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    _require(value in known, key, value, f"must be one of {', '.join(known)}")


def _positive(config: Config) -> None:
    counts = {
        "run.rounds": config.run.rounds,
        "prompts.gallery": config.prompts.gallery,
        "prompts.policy": config.prompts.policy,
        "gallery.batch": config.gallery.batch,
        "gallery.segment": config.gallery.segment,
        "gallery.max_loaded": config.gallery.max_loaded,
        "reward.batch": config.reward.batch,
        "policy.num_steps": config.policy.num_steps,
        "policy.updates": config.policy.updates,
        "policy.batch": config.policy.batch,
        "policy.rollout_batch": config.policy.rollout_batch,
        "policy.checkpoint_every": config.policy.checkpoint_every,
        "actors.processes": config.actors.processes,
        "actors.threads": config.actors.threads,
        "evaluation.images_per_aspect": config.evaluation.images_per_aspect,
    }
    for role in ("samplers", "judges", "rollers", "reward_learners", "policy_learners"):
        counts[f"actors.{role}.count"] = getattr(config.actors, role).count
    for key, value in counts.items():
        _require(value >= 1, key, value, "must be 1 or more")
    for key, value in {
        "reward.updates": config.reward.updates,
        "policy.max_policy_lag": config.policy.max_policy_lag,
        "policy.pretraining_weight": config.policy.pretraining_weight,
        "policy.shift": config.policy.shift,
        "policy.noise": config.policy.noise,
        "policy.loss_scale": config.policy.loss_scale,
        "evaluation.seen_images_per_aspect": config.evaluation.seen_images_per_aspect,
        "actors.max_retries": config.actors.max_retries,
        "judge.margin": config.judge.margin,
    }.items():
        _require(value >= 0, key, value, "must be 0 or more")


def _shares(config: Config) -> None:
    for key, value in {
        "judge.flip": config.judge.flip,
        "reward.held_out": config.reward.held_out,
        "reward.fix_rate": config.reward.fix_rate,
        "reward.min_accuracy": config.reward.min_accuracy,
        "policy.engine.ema": config.policy.engine.ema,
        "reward.engine.ema": config.reward.engine.ema,
    }.items():
        _require(0 <= value < 1, key, value, "must be from 0 up to, not including, 1")
    _require(
        config.reward.held_out > 0,
        "reward.held_out",
        config.reward.held_out,
        "must be above 0: accuracy needs pairs unseen",
    )


def _engines(config: Config) -> None:
    for name, engine in (("policy", config.policy.engine), ("reward", config.reward.engine)):
        _one_of(f"{name}.engine.kind", engine.kind, ("plain", "deepspeed"))
        _one_of(f"{name}.engine.dtype", engine.dtype, ("fp32", "bf16"))
        _require(0 <= engine.zero_stage <= 3, f"{name}.engine.zero_stage", engine.zero_stage, "must be 0, 1, 2 or 3")
        _require(engine.lr > 0 and math.isfinite(engine.lr), f"{name}.engine.lr", engine.lr, "must be above 0")
        _require(engine.grad_clip > 0, f"{name}.engine.grad_clip", engine.grad_clip, "must be above 0")
    if config.reward.engine.kind == "deepspeed" and config.actors.layout == "shared":
        raise ConfigError(
            "reward.engine.kind is 'deepspeed' with actors.layout 'shared': a process can belong to one DeepSpeed "
            "group, the policy's; set reward.engine.kind=plain or actors.layout=separate"
        )


def check(config: Config) -> None:
    """Every rule that one file of YAML can break; raises ConfigError before any device is asked for."""
    _positive(config)
    _shares(config)
    _engines(config)
    p, policy = config.prompts, config.policy
    _one_of("gallery.dtype", config.gallery.dtype, ("fp32", "bf16", "fp16"))
    _one_of("prompts.source", p.source, ("shapes", "files"))
    _one_of("judge.first_round", config.judge.first_round, ("oracle",))
    _one_of("judge.later_rounds", config.judge.later_rounds, ("reward", "oracle"))
    _one_of("judge.rule", config.judge.rule, ("official_fixed", "min_inversions"))
    _one_of("reward.on_bad_reward", config.reward.on_bad_reward, ("stop", "drop"))
    _one_of("policy.start_from", policy.start_from, ("previous", "base"))
    _one_of("policy.sampler", policy.sampler, ("ddim", "ddpm"))
    _one_of("actors.layout", config.actors.layout, ("shared", "separate"))
    for aspect in p.aspects:
        _one_of("prompts.aspects", aspect, ASPECTS)
    for aspect in config.reward.weights:
        _one_of("reward.weights", aspect, ASPECTS)
    if missing := [aspect for aspect in p.aspects if aspect not in config.reward.weights]:
        raise ConfigError(
            f"reward.weights has no {missing[0]!r}: every aspect of prompts.aspects needs a weight (0 = ignore)"
        )
    _require(bool(config.gallery.members), "gallery.members", config.gallery.members, "must name at least one model")
    founders = [name for name, member in config.gallery.members.items() if member.join_round == 0]
    _require(
        len(founders) >= 2, "gallery.members", founders, "at least two must have join_round 0: a pair needs two images"
    )
    for name, member in config.gallery.members.items():
        _require(member.num_steps >= 1, f"gallery.members.{name}.num_steps", member.num_steps, "must be 1 or more")
        _require(
            not name.startswith("policy-"),
            f"gallery.members.{name}",
            name,
            "'policy-' names belong to this run's own policies",
        )
    _require(
        0 <= policy.mid_low <= policy.mid_high < policy.num_steps,
        "policy.mid_low..mid_high",
        (policy.mid_low, policy.mid_high),
        f"must lie within steps 0..{policy.num_steps - 1} of policy.num_steps",
    )
    _require(
        policy.batch % policy.rollout_batch == 0,
        "policy.batch",
        policy.batch,
        f"must be a multiple of policy.rollout_batch ({policy.rollout_batch})",
    )
    rollouts, ranks = policy.batch // policy.rollout_batch, config.actors.policy_learners.count
    _require(
        rollouts % ranks == 0,
        "actors.policy_learners.count",
        ranks,
        f"must divide the {rollouts} rollouts of an update (policy.batch / policy.rollout_batch)",
    )
    _require(
        policy.engine.kind == "plain" or policy.engine.ema >= 0,
        "policy.engine.ema",
        policy.engine.ema,
        "must be 0 or more",
    )
    if config.actors.layout == "shared":
        _require(
            ranks <= config.actors.processes,
            "actors.policy_learners.count",
            ranks,
            f"a shared process holds one rank: at most actors.processes ({config.actors.processes})",
        )
    if p.source == "files" and not (p.train_file and p.test_file):
        raise ConfigError(
            "prompts.source is 'files': set prompts.train_file and prompts.test_file, held-out prompts are needed"
        )
    if p.source == "files" and config.judge.first_round == "oracle":
        raise ConfigError(
            "judge.first_round is 'oracle', which grades only the embedded world, and no other judge is there yet"
        )
