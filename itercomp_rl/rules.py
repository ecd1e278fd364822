"""Which settings go together: every rule that one file of YAML can break, checked before any device is asked for."""

import math

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.schema import Config
from itercomp_rl.store.address import CREDENTIALS_WAY_OUT, secret_part


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
