"""Which settings go together: every rule that one file of YAML can break, checked before any device is asked for."""

import math
import re
from collections.abc import Mapping
from importlib.util import find_spec

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.schema import ALL, Config, MemberConfig, PlannerConfig
from itercomp_rl.store.address import CREDENTIALS_WAY_OUT, secret_part

SYSTEMS = (
    "text",
    "rpg",
    "omost",
    "lmd",
    "instance_diffusion",
)  # of gallery members; itercomp_rl/gallery/gallery.py has a class for each
PLANNED = ("rpg", "omost", "lmd", "instance_diffusion")  # those that need a planner
DTYPES = ("fp32", "bf16", "fp16")
SCORERS = ("oracle", "reward", "t2i_compbench")  # judges by score; itercomp_rl/judges/choice.py opens each


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
        "policy.anchor_every": config.policy.anchor_every,
        "reward.checkpoint_every": config.reward.checkpoint_every,
        "policy.points_per_rollout": config.policy.points_per_rollout,
        "policy.grad_steps": config.policy.grad_steps,
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
        "policy.lora.rank": config.policy.lora.rank,
        "policy.noise": config.policy.noise,
        "policy.loss_scale": config.policy.loss_scale,
        "evaluation.seen_images_per_aspect": config.evaluation.seen_images_per_aspect,
        "evaluation.denoising_images": config.evaluation.denoising_images,
        "actors.max_retries": config.actors.max_retries,
        "actors.max_set_aside": config.actors.max_set_aside,
        "actors.grace_s": config.actors.grace_s,
        "gallery.rounds_ahead": config.gallery.rounds_ahead,
        "judge.margin": config.judge.margin,
        "tracking.images": config.tracking.images,
    }.items():
        _require(value >= 0, key, value, "must be 0 or more")


def _placing(config: Config) -> None:
    for name in ("samplers", "judges", "rollers", "reward_learners", "policy_learners"):
        role, key = getattr(config.actors, name), f"actors.{name}"
        _require(role.cpus >= 0, f"{key}.cpus", role.cpus, "must be 0 or more")
        _require(role.gpus >= 0, f"{key}.gpus", role.gpus, "must be 0 or more")
        is_whole = role.gpus <= 1 or float(role.gpus).is_integer()
        _require(is_whole, f"{key}.gpus", role.gpus, "above 1 only whole GPUs: a part of one is not joined with others")
        for resource, amount in role.resources.items():
            _require(amount > 0, f"{key}.resources.{resource}", amount, "must be above 0")
            own = resource.lower() not in ("cpu", "gpu", "memory", "object_store_memory")
            _require(own, f"{key}.resources", resource, "is no custom resource: use cpus and gpus")
        for label, value in role.labels.items():
            is_plain = re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", value) is not None
            _require(is_plain, f"{key}.labels.{label}", value, "must be a plain value of a node's label")
    if config.actors.layout == "shared":
        for name in ("judges", "rollers", "reward_learners", "policy_learners"):
            role = getattr(config.actors, name)
            same = role.labels == config.actors.samplers.labels
            _require(same, f"actors.{name}.labels", role.labels, "in layout shared all roles name the same labels")


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
        _one_of(f"{name}.engine.optimizer", engine.optimizer, ("adamw", "adamw_8bit"))
        _require(
            engine.optimizer == "adamw" or engine.kind == "plain",
            f"{name}.engine.optimizer",
            engine.optimizer,
            "needs engine.kind plain: DeepSpeed shares Adam's moments out instead (engine.zero_stage)",
        )
        _one_of(f"{name}.engine.dtype", engine.dtype, ("fp32", "bf16"))
        _require(0 <= engine.zero_stage <= 3, f"{name}.engine.zero_stage", engine.zero_stage, "must be 0, 1, 2 or 3")
        _require(engine.lr > 0 and math.isfinite(engine.lr), f"{name}.engine.lr", engine.lr, "must be above 0")
        _require(engine.grad_clip > 0, f"{name}.engine.grad_clip", engine.grad_clip, "must be above 0")
    if config.reward.engine.kind == "deepspeed" and config.actors.layout == "shared":
        raise ConfigError(
            "reward.engine.kind is 'deepspeed' with actors.layout 'shared': a process can belong to one DeepSpeed "
            "group, the policy's; set reward.engine.kind=plain or actors.layout=separate"
        )


def _learning(config: Config) -> None:
    policy, drop = config.policy, config.evaluation.max_drop
    first, updates = policy.reward_updates_first, config.reward.updates
    _require(
        first == ALL or (first.isdecimal() and 1 <= int(first) <= updates),
        "policy.reward_updates_first",
        first,
        f"must be all, or a number from 1 to reward.updates ({updates})",
    )
    begin, segments = config.reward.rankings_first, math.ceil(config.prompts.gallery / config.gallery.segment)
    _require(
        begin == ALL or (begin.isdecimal() and 1 <= int(begin) <= segments),
        "reward.rankings_first",
        begin,
        f"must be all, or a number from 1 to the segments of a round ({segments}, by prompts.gallery and "
        "gallery.segment)",
    )
    _require(
        drop is None or (drop >= 0 and math.isfinite(drop)), "evaluation.max_drop", drop, "must be 0 or more, or null"
    )
    _require(policy.lora.alpha > 0, "policy.lora.alpha", policy.lora.alpha, "must be above 0")
    _require(
        policy.lora.targets is None or len(policy.lora.targets) > 0,
        "policy.lora.targets",
        policy.lora.targets,
        "must name at least one layer, or be null",
    )
    num_steps = policy.mid_high - policy.mid_low + 1
    _require(
        policy.points_per_rollout <= max(num_steps, 1),
        "policy.points_per_rollout",
        policy.points_per_rollout,
        f"an image's points are different steps, and mid_low..mid_high has {num_steps}",
    )
    _require(
        policy.mid_high + policy.grad_steps <= policy.num_steps,
        "policy.grad_steps",
        policy.grad_steps,
        f"only {policy.num_steps - policy.mid_high} steps are left from policy.mid_high ({policy.mid_high}) on",
    )
    _require(
        policy.rollout_guidance is None or policy.rollout_guidance > 0,
        "policy.rollout_guidance",
        policy.rollout_guidance,
        "must be above 0, or null for none",
    )
    for key, side in {
        "policy.size_px": policy.size_px,
        **{f"gallery.members.{name}.size_px": m.size_px for name, m in config.gallery.members.items()},
    }.items():
        _require(side is None or side >= 8, key, side, "must be 8 or more, or null for the checkpoint's own")


def _attention(config: Config) -> None:
    for key, kind, dtype in (
        ("policy.attention", config.policy.attention, config.policy.engine.dtype),
        ("gallery.attention", config.gallery.attention, config.gallery.dtype),
        ("reward.attention", config.reward.attention, config.reward.engine.dtype),
    ):
        _one_of(key, kind, ("sdpa", "flash"))
        if kind == "flash":
            _require(
                dtype != "fp32", key, kind, f"FlashAttention computes in bf16 or fp16, and this part's dtype is {dtype}"
            )
            _require(config.actors.device != "cpu", key, kind, "FlashAttention needs a GPU, and actors.device is 'cpu'")
    if planned := [name for name, member in config.gallery.members.items() if member.system in PLANNED]:
        why = f"gallery.members.{planned[0]} draws by plan, which acts on the attention layers: for text members alone"
        _require(config.gallery.attention == "sdpa", "gallery.attention", config.gallery.attention, why)
        _require(not config.gallery.compile, "gallery.compile", config.gallery.compile, why)


def _half_precision(config: Config) -> None:
    """fp16 is for GPUs alone; where the device is chosen by itself, a sampler without one draws on the CPU."""
    actors = config.actors
    roles = (actors.samplers, actors.judges, actors.rollers, actors.reward_learners, actors.policy_learners)
    has_gpu = max(role.gpus for role in roles) if actors.layout == "shared" else actors.samplers.gpus
    if actors.device != "cpu" and (has_gpu or actors.device != "auto"):
        return
    for key, dtype in {
        "gallery.dtype": config.gallery.dtype,
        **{f"gallery.members.{name}.dtype": member.dtype for name, member in config.gallery.members.items()},
    }.items():
        _require(dtype != "fp16", key, dtype, "samplers run on the CPU, which computes bf16 or fp32 but not fp16")


def _planned(name: str, member: MemberConfig, planners: Mapping[str, PlannerConfig]) -> None:
    key = f"gallery.members.{name}"
    if member.system in PLANNED:
        known = ", ".join(planners) or "none"
        _require(member.planner in planners, f"{key}.planner", member.planner, f"must be of gallery.planners: {known}")
    else:
        _require(member.planner is None, f"{key}.planner", member.planner, f"system {member.system!r} has no planner")
    _require(0 <= member.base_ratio <= 1, f"{key}.base_ratio", member.base_ratio, "must be from 0 to 1")
    _one_of(f"{key}.pooled", member.pooled, ("last_region", "base"))
    _require(member.attention_scale >= 0, f"{key}.attention_scale", member.attention_scale, "must be 0 or more")
    _require(member.reference_weight >= 0, f"{key}.reference_weight", member.reference_weight, "must be 0 or more")
    if member.system == "instance_diffusion":
        _require(
            bool(member.grounding),
            f"{key}.grounding",
            member.grounding,
            "must name the file of InstanceDiffusion's layers",
        )
        _require(member.scheduler is None, f"{key}.scheduler", member.scheduler, "the system has a sampler of its own")
    else:
        _require(
            member.grounding is None, f"{key}.grounding", member.grounding, "is for system instance_diffusion alone"
        )


def _planners(config: Config) -> None:
    for name, planner in config.gallery.planners.items():
        key = f"gallery.planners.{name}"
        _one_of(f"{key}.kind", planner.kind, ("rule", "transformers", "openai"))
        if planner.fallback is not None:
            _one_of(f"{key}.fallback", planner.fallback, ("rule",))
        if planner.kind != "rule":
            _require(bool(planner.model), f"{key}.model", planner.model, f"kind {planner.kind!r} needs one")
            _require(planner.max_tokens >= 1, f"{key}.max_tokens", planner.max_tokens, "must be 1 or more")
        if planner.kind == "openai":
            is_http = (planner.url or "").startswith(("http://", "https://"))
            _require(is_http, f"{key}.url", planner.url, "must be an address such as http://localhost:8000/v1")
            if part := secret_part(planner.url or ""):
                raise ConfigError(
                    f"{key}.url holds {part}, which would be written to config.yaml and to messages: give the address "
                    f"alone, and the key by the environment variable {key}.key_env"
                )
            _require(planner.timeout_s > 0, f"{key}.timeout_s", planner.timeout_s, "must be above 0")
            _require(planner.max_retries >= 0, f"{key}.max_retries", planner.max_retries, "must be 0 or more")


def require_spacy() -> None:
    """Raises: ConfigError if spaCy, which T2I-CompBench's metrics read prompts with, is not installed."""
    if find_spec("spacy") is None:
        raise ConfigError("T2I-CompBench's metrics need spaCy: pip install 'itercomp-rl[compbench]'")


def is_rank_file(first_round: str) -> bool:
    """Whether judge.first_round names rank files and not a judge."""
    return first_round.endswith((".json", ".csv", "/"))


def _judges(config: Config) -> None:
    judge, files = config.judge, config.prompts.source == "files"
    if judge.first_round not in SCORERS and not is_rank_file(judge.first_round):
        raise ConfigError(
            f"judge.first_round is {judge.first_round!r}: must be one of {', '.join(SCORERS)}, or rank files: a path "
            "that ends in .json, .csv or (a folder of them) /"
        )
    _one_of("judge.later_rounds", judge.later_rounds, SCORERS)
    _one_of("evaluation.judge", config.evaluation.judge, SCORERS)
    for key, value in {
        "judge.first_round": judge.first_round,
        "judge.later_rounds": judge.later_rounds,
        "evaluation.judge": config.evaluation.judge,
    }.items():
        if files and value == "oracle":
            raise ConfigError(
                f"{key} is 'oracle' with prompts.source 'files': the oracle reads only the embedded world's prompts; "
                "set it to reward or t2i_compbench" + (", or give rank files" if key == "judge.first_round" else "")
            )
    if "t2i_compbench" in (judge.first_round, judge.later_rounds, config.evaluation.judge):
        require_spacy()
    for aspect in judge.reward_models:
        _one_of("judge.reward_models", aspect, ASPECTS)
    _one_of("judge.t2i_compbench.mode", judge.t2i_compbench.mode, ("official", "fixed"))
    threshold = judge.t2i_compbench.threshold
    _require(0 < threshold < 1, "judge.t2i_compbench.threshold", threshold, "must lie between 0 and 1")
    weights = judge.pair_weights
    for name, value in (("judge", weights.judge), ("people", weights.people)):
        _require(value >= 0 and math.isfinite(value), f"judge.pair_weights.{name}", value, "must be 0 or more")
    _require(
        weights.judge + weights.people > 0, "judge.pair_weights", (0, 0), "one of judge and people must be above 0"
    )


def check(config: Config) -> None:
    """Every rule that one file of YAML can break; raises ConfigError before any device is asked for."""
    _positive(config)
    _placing(config)
    _shares(config)
    _engines(config)
    _planners(config)
    p, policy = config.prompts, config.policy
    _one_of("gallery.dtype", config.gallery.dtype, DTYPES)
    _one_of("prompts.source", p.source, ("shapes", "files"))
    _one_of("judge.rule", config.judge.rule, ("official_fixed", "min_inversions"))
    _one_of("reward.on_bad_reward", config.reward.on_bad_reward, ("stop", "drop"))
    _one_of("policy.start_from", policy.start_from, ("previous", "base"))
    _require(
        config.reward.micro_batch is None or 1 <= config.reward.micro_batch <= config.reward.batch,
        "reward.micro_batch",
        config.reward.micro_batch,
        f"must be from 1 to reward.batch ({config.reward.batch}), or null",
    )
    _one_of("policy.sampler", policy.sampler, ("ddim", "ddpm", "euler", "renoise"))
    _attention(config)
    _half_precision(config)
    _one_of("actors.layout", config.actors.layout, ("shared", "separate"))
    for tracker in config.tracking.trackers:
        _one_of("tracking.trackers", tracker, ("tensorboard", "wandb", "mlflow", "trackio"))
    for aspect in p.aspects:
        _one_of("prompts.aspects", aspect, ASPECTS)
    for aspect in config.reward.weights:
        _one_of("reward.weights", aspect, ASPECTS)
    if missing := [aspect for aspect in p.aspects if aspect not in config.reward.weights]:
        raise ConfigError(
            f"reward.weights has no {missing[0]!r}: every aspect of prompts.aspects needs a weight (0 = ignore)"
        )
    if part := secret_part(config.store.url or ""):
        raise ConfigError(f"store.url holds {part}, which would be written to config.yaml: {CREDENTIALS_WAY_OUT}")
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
        _one_of(f"gallery.members.{name}.system", member.system, SYSTEMS)
        _planned(name, member, config.gallery.planners)
        if member.dtype is not None:
            _one_of(f"gallery.members.{name}.dtype", member.dtype, DTYPES)
        if member.size_px is not None:
            _require(member.size_px >= 8, f"gallery.members.{name}.size_px", member.size_px, "must be 8 or more")
        _require(member.join_round >= 0, f"gallery.members.{name}.join_round", member.join_round, "must be 0 or more")
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
    _learning(config)
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
    _judges(config)
