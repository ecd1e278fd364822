"""The settings of a run, as one tree of dataclasses. Units and reasons of every key stand in configs/base.yaml."""

from dataclasses import dataclass
from pathlib import Path


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
    json_logs: bool


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
