"""The settings of a run, as one tree of dataclasses. Units and reasons of every key stand in configs/base.yaml."""

from dataclasses import dataclass, field
from pathlib import Path

BASE = "base policy"  # name of the policy before the first round
OWN_POLICY = "policy"  # as a gallery member's model: the policy of this run
EXTERNAL = ("folder", "endpoint")  # systems of gallery members whose images are made elsewhere
ALL = "all"  # as policy.reward_updates_first: every update of the reward models


def policy_name(round_: int) -> str:
    """The name, among models, of the policy that a round published; rounds count from 0."""
    return f"policy-{round_}"


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
    image_cache_gib: float
    image_memory_mib: float


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
    policy_file: str | None
    test_file: str | None
    aspects: list[str]
    validation_file: str | None = None
    on_truncation: str = "warn"

    @property
    def is_world(self) -> bool:
        """Whether the prompts are of the embedded world's language, which its oracle reads."""
        return self.source == "shapes"


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    model: str
    num_steps: int = 0
    guidance: float = 1.0
    join_round: int = 0
    system: str = "text"
    planner: str | None = None
    base_ratio: float = 0.5
    pooled: str = "last_region"
    attention_scale: float = 5.0
    reference_weight: float = 2.0
    grounding: str | None = None
    scheduler: str | None = None
    negative: str | None = None
    size_px: int | None = None
    dtype: str | None = None
    endpoint: str | None = None

    @property
    def is_external(self) -> bool:
        """Whether its images are made elsewhere, so that no checkpoint of it is loaded here."""
        return self.system in EXTERNAL


def draws_as_base(member: MemberConfig, base: str) -> bool:
    """Whether a gallery member draws as the base policy does: its checkpoint, from the text alone."""
    return member.model == base and member.system == "text"


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    kind: str
    model: str | None = None
    url: str | None = None
    key_env: str | None = None
    timeout_s: float = 60.0
    max_retries: int = 3
    max_tokens: int = 2048
    fallback: str | None = "rule"


@dataclass(frozen=True, kw_only=True)
class ImageEndpointConfig:
    url: str
    key_env: str | None = None
    timeout_s: float = 120.0
    max_retries: int = 5
    parallel: int = 4


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    members: dict[str, MemberConfig]
    endpoints: dict[str, ImageEndpointConfig] = field(default_factory=dict)
    planners: dict[str, PlannerConfig] = field(default_factory=lambda: {"rule": PlannerConfig(kind="rule")})
    policy_joins: bool
    batch: int
    segment: int
    dtype: str
    max_loaded: int
    attention: str = "sdpa"
    compile: bool = False
    rounds_ahead: int = 1


@dataclass(frozen=True, kw_only=True)
class CompBenchConfig:
    mode: str
    spacy: str
    vqa: str
    clip: str
    detector: str
    depth: str
    threshold: float


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    model: str | None
    url: str | None
    key_env: str | None
    atoms: str
    parallel: int
    timeout_s: float
    max_retries: int
    max_tokens: int
    max_requests: int | None


@dataclass(frozen=True, kw_only=True)
class PairWeightsConfig:
    judge: float
    people: float
    imported: float = 1.0


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    first_round: str
    later_rounds: str
    rule: str
    margin: float
    flip: float
    reward_models: dict[str, str]
    pair_weights: PairWeightsConfig
    t2i_compbench: CompBenchConfig
    vlm: VlmConfig
    margins: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    kind: str
    zero_stage: int
    optimizer: str
    dtype: str
    lr: float
    lr_schedule: str
    lr_warmup: int
    weight_decay: float
    grad_clip: float
    ema: float


@dataclass(frozen=True, kw_only=True)
class HardeningConfig:
    weight: float
    attack_rms: float
    attack_steps: int


@dataclass(frozen=True, kw_only=True)
class RewardLearningConfig:
    trunk: str
    preferences: list[str] = field(default_factory=list)
    rankings_first: str
    fix_rate: float
    updates: int
    batch: int
    micro_batch: int | None
    noise: float
    centering: float
    hardening: HardeningConfig
    held_out: float
    min_accuracy: float
    on_bad_reward: str
    weights: dict[str, float]
    refresh: bool
    checkpoint_every: int
    attention: str
    engine: EngineConfig


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    rank: int
    alpha: float
    targets: list[str] | None


@dataclass(frozen=True, kw_only=True)
class FrozenRewardConfig:
    source: str
    weight: float = 1.0
    target: float | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    model: str
    size_px: int | None
    lora: LoraConfig
    num_steps: int
    guidance: float
    scheduler: str
    mid_low: int
    mid_high: int
    points_per_rollout: int
    grad_steps: int
    rollout_guidance: float | None
    updates: int
    batch: int
    rollout_batch: int
    max_policy_lag: int
    reward_updates_first: str
    anchor_every: int
    start_from: str
    patience: int | None
    target: float
    targets: dict[str, float]
    combine: str
    aspect_gradients: str
    gradient_metrics_every: int
    loss_scale: float
    pretraining_weight: float
    pretraining_batch: int
    pretraining_images: str
    caption_dropout: float
    stay_near_base: float
    shift: int
    noise: float
    checkpoint_every: int
    gradient_checkpointing: bool
    attention: str
    compile: bool
    engine: EngineConfig
    frozen_rewards: dict[str, FrozenRewardConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoleConfig:
    count: int
    cpus: float
    gpus: float
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    layout: str
    processes: int
    threads: int
    device: str
    gpu_gib: float | None
    samplers: RoleConfig
    judges: RoleConfig
    rollers: RoleConfig
    reward_learners: RoleConfig
    policy_learners: RoleConfig
    autoscale: bool
    min_samplers: int
    min_rollers: int
    start_timeout_s: float
    progress_timeout_s: float
    max_retries: int
    max_skipped_prompts: int
    grace_s: float


@dataclass(frozen=True, kw_only=True)
class EvaluationCompBenchConfig:
    mode: str | None = None
    threshold: float | None = None
    vqa: str | None = None
    clip: str | None = None
    detector: str | None = None
    depth: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    judge: str
    reward_models: dict[str, str] = field(default_factory=dict)
    t2i_compbench: EvaluationCompBenchConfig = field(default_factory=EvaluationCompBenchConfig)
    allow_self_grading: bool = False
    metrics: dict[str, str] = field(default_factory=dict)
    images_per_aspect: int
    seen_images_per_aspect: int
    denoising_images: int = 0
    probe_every: int = 0
    probe_images: int = 96
    keep: str = "last"
    seed: int
    grid_prompts: int
    max_drop: float | None


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    trackers: list[str]
    project: str
    images: int
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
