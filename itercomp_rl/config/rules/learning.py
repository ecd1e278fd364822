"""Settings of the reward and policy learners: engines, updates, steps and batches."""

import math

from itercomp_rl.config.rules.engine import check_engine
from itercomp_rl.config.rules.terms import check_side, one_of, require
from itercomp_rl.config.schema import ALL, Config, draws_as_base
from itercomp_rl.errors import ConfigError


def check_learning(config: Config) -> None:
    """How rewards and policy learn; counts and shares are in bounds already."""
    _engines(config)
    _reward(config)
    _policy(config)


def _engines(config: Config) -> None:
    for name, engine in (("policy", config.policy.engine), ("reward", config.reward.engine)):
        check_engine(f"{name}.engine", engine)
        require(engine.lr > 0 and math.isfinite(engine.lr), f"{name}.engine.lr", engine.lr, "must be above 0")
        require(engine.grad_clip > 0, f"{name}.engine.grad_clip", engine.grad_clip, "must be above 0")
    if config.reward.engine.kind == "deepspeed" and config.actors.layout == "shared":
        raise ConfigError(
            "reward.engine.kind is 'deepspeed' with actors.layout 'shared': a process can belong to one DeepSpeed "
            "group, the policy's; set reward.engine.kind=plain or actors.layout=separate"
        )


def _reward(config: Config) -> None:
    reward = config.reward
    one_of("reward.on_bad_reward", reward.on_bad_reward, ("stop", "drop"))
    require(
        reward.micro_batch is None or 1 <= reward.micro_batch <= reward.batch,
        "reward.micro_batch",
        reward.micro_batch,
        f"must be from 1 to reward.batch ({reward.batch}), or null",
    )
    require(reward.held_out > 0, "reward.held_out", reward.held_out, "must be above 0: accuracy needs pairs unseen")
    require(reward.centering >= 0, "reward.centering", reward.centering, "must be 0 (off) or more")
    hardening = reward.hardening
    require(hardening.weight >= 0, "reward.hardening.weight", hardening.weight, "must be 0 (off) or more")
    require(
        0 < hardening.attack_rms <= 0.5,
        "reward.hardening.attack_rms",
        hardening.attack_rms,
        "must be above 0 and at most 0.5, of pixels in [0,1]",
    )
    require(hardening.attack_steps >= 1, "reward.hardening.attack_steps", hardening.attack_steps, "must be 1 or more")
    begin, segments = reward.rankings_first, math.ceil(config.prompts.gallery / config.gallery.segment)
    require(
        begin == ALL or (begin.isdecimal() and 1 <= int(begin) <= segments),
        "reward.rankings_first",
        begin,
        f"must be all, or a number from 1 to the segments of a round ({segments}, by prompts.gallery and "
        "gallery.segment)",
    )


def _pretraining(config: Config) -> None:
    policy = config.policy
    one_of("policy.pretraining_images", policy.pretraining_images, ("all", "winners", "base"))
    require(
        0 <= policy.caption_dropout < 1, "policy.caption_dropout", policy.caption_dropout, "must be from 0 to below 1"
    )
    require(math.isfinite(policy.stay_near_base), "policy.stay_near_base", policy.stay_near_base, "must be finite")
    if policy.pretraining_images == "base":
        members = [name for name, member in config.gallery.members.items() if draws_as_base(member, policy.model)]
        require(
            bool(members),
            "policy.pretraining_images",
            policy.pretraining_images,
            f"no member of gallery.members draws with policy.model ({policy.model}) by system text: add one, or take "
            "winners or all",
        )


def _policy(config: Config) -> None:
    policy = config.policy
    one_of("policy.combine", policy.combine, ("sum", "mean"))
    one_of("policy.aspect_gradients", policy.aspect_gradients, ("sum", "project_by_image"))
    for aspect, target in policy.targets.items():
        one_of("policy.targets", aspect, tuple(config.prompts.aspects))
        require(math.isfinite(target), f"policy.targets.{aspect}", target, "must be finite")
    _pretraining(config)
    one_of("policy.start_from", policy.start_from, ("previous", "base"))
    one_of("policy.scheduler", policy.scheduler, ("ddim", "ddpm", "euler", "renoise"))
    require(
        0 <= policy.mid_low <= policy.mid_high < policy.num_steps,
        "policy.mid_low..mid_high",
        (policy.mid_low, policy.mid_high),
        f"must lie within steps 0..{policy.num_steps - 1} of policy.num_steps",
    )
    rollouts, ranks = policy.batch // policy.rollout_batch, config.actors.policy_learners.count
    require(
        policy.batch % policy.rollout_batch == 0,
        "policy.batch",
        policy.batch,
        f"must be a multiple of policy.rollout_batch ({policy.rollout_batch})",
    )
    require(
        rollouts % ranks == 0,
        "actors.policy_learners.count",
        ranks,
        f"must divide the {rollouts} rollouts of an update (policy.batch / policy.rollout_batch)",
    )
    first, updates = policy.reward_updates_first, config.reward.updates
    require(
        first == ALL or (first.isdecimal() and 1 <= int(first) <= updates),
        "policy.reward_updates_first",
        first,
        f"must be all, or a number from 1 to reward.updates ({updates})",
    )
    require(policy.lora.alpha > 0, "policy.lora.alpha", policy.lora.alpha, "must be above 0")
    require(
        policy.lora.targets is None or len(policy.lora.targets) > 0,
        "policy.lora.targets",
        policy.lora.targets,
        "must name at least one layer, or be null",
    )
    num_steps = policy.mid_high - policy.mid_low + 1
    require(
        policy.points_per_rollout <= max(num_steps, 1),
        "policy.points_per_rollout",
        policy.points_per_rollout,
        f"an image's points are different steps, and mid_low..mid_high has {num_steps}",
    )
    require(
        policy.mid_high + policy.grad_steps <= policy.num_steps,
        "policy.grad_steps",
        policy.grad_steps,
        f"only {policy.num_steps - policy.mid_high} steps are left from policy.mid_high ({policy.mid_high}) on",
    )
    require(
        policy.rollout_guidance is None or policy.rollout_guidance > 0,
        "policy.rollout_guidance",
        policy.rollout_guidance,
        "must be above 0, or null for none",
    )
    check_side("policy.size_px", policy.size_px)
