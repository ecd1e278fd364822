"""Which settings go together: every rule that one file of YAML can break, checked before any device is asked for."""

from itercomp_rl.config.rules.gallery import check_gallery
from itercomp_rl.config.rules.judging import check_judges
from itercomp_rl.config.rules.learning import check_learning
from itercomp_rl.config.rules.placing import check_actors
from itercomp_rl.config.rules.probing import check_probes
from itercomp_rl.config.rules.terms import one_of, require
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.store.address import CREDENTIALS_WAY_OUT, secret_part


def check(config: Config) -> None:
    """Raises: ConfigError that names the setting, its value and the way out."""
    name = config.run.name
    require(name.strip() not in ("", ".", ".."), "run.name", name, "must be the name of a folder under run.dir")
    _counts(config)
    _shares(config)
    _prompts(config)
    if part := secret_part(config.store.url or ""):
        raise ConfigError(f"store.url holds {part}, which would be written to config.yaml: {CREDENTIALS_WAY_OUT}")
    for tracker in config.tracking.trackers:
        one_of("tracking.trackers", tracker, ("tensorboard", "wandb", "mlflow", "trackio"))
    check_gallery(config)
    check_judges(config)
    check_learning(config)
    check_probes(config)
    check_actors(config)


def _counts(config: Config) -> None:
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
        "evaluation.grid_prompts": config.evaluation.grid_prompts,
    }
    for role in ("samplers", "judges", "rollers", "reward_learners", "policy_learners"):
        counts[f"actors.{role}.count"] = getattr(config.actors, role).count
    for key, value in counts.items():
        require(value >= 1, key, value, "must be 1 or more")
    for key, value in {
        "store.image_cache_gib": config.store.image_cache_gib,
        "store.image_memory_mib": config.store.image_memory_mib,
        "reward.updates": config.reward.updates,
        "policy.max_policy_lag": config.policy.max_policy_lag,
        "policy.pretraining_weight": config.policy.pretraining_weight,
        "policy.stay_near_base": config.policy.stay_near_base,
        "policy.gradient_metrics_every": config.policy.gradient_metrics_every,
        "policy.shift": config.policy.shift,
        "policy.lora.rank": config.policy.lora.rank,
        "policy.noise": config.policy.noise,
        "policy.loss_scale": config.policy.loss_scale,
        "evaluation.seen_images_per_aspect": config.evaluation.seen_images_per_aspect,
        "evaluation.denoising_images": config.evaluation.denoising_images,
        "evaluation.probe_every": config.evaluation.probe_every,
        "actors.max_retries": config.actors.max_retries,
        "actors.max_skipped_prompts": config.actors.max_skipped_prompts,
        "actors.grace_s": config.actors.grace_s,
        "gallery.rounds_ahead": config.gallery.rounds_ahead,
        "judge.margin": config.judge.margin,
        "tracking.images": config.tracking.images,
    }.items():
        require(value >= 0, key, value, "must be 0 or more")
    for key, value in {
        "actors.start_timeout_s": config.actors.start_timeout_s,
        "actors.progress_timeout_s": config.actors.progress_timeout_s,
    }.items():
        require(value > 0, key, value, "must be more than 0 seconds")


def _shares(config: Config) -> None:
    for key, value in {
        "judge.flip": config.judge.flip,
        "reward.held_out": config.reward.held_out,
        "reward.fix_rate": config.reward.fix_rate,
        "reward.min_accuracy": config.reward.min_accuracy,
        "policy.engine.ema": config.policy.engine.ema,
        "reward.engine.ema": config.reward.engine.ema,
    }.items():
        require(0 <= value < 1, key, value, "must be from 0 up to, not including, 1")


def _prompts(config: Config) -> None:
    p = config.prompts
    one_of("prompts.source", p.source, ("shapes", "t2i_compbench", "files"))
    one_of("prompts.on_truncation", p.on_truncation, ("warn", "error"))
    if p.source == "files" and not (p.train_file and p.test_file):
        raise ConfigError(
            "prompts.source is 'files': set prompts.train_file and prompts.test_file, held-out prompts are needed"
        )
    unread = ("policy_file", "validation_file") + (() if p.is_world else ("train_file", "test_file"))
    for name in unread if p.source != "files" else ():
        if file := getattr(p, name):
            raise ConfigError(
                f"prompts.{name} is {file!r} with prompts.source {p.source!r}, which reads no files: set "
                "prompts.source=files, or leave it out"
            )
    require(bool(p.aspects), "prompts.aspects", list(p.aspects), f"name one or more of {', '.join(ASPECTS)}")
    for aspect in p.aspects:
        one_of("prompts.aspects", aspect, ASPECTS)
        require(p.aspects.count(aspect) == 1, "prompts.aspects", list(p.aspects), f"name {aspect!r} once")
    for aspect in config.reward.weights:
        one_of("reward.weights", aspect, ASPECTS)
    if missing := [aspect for aspect in p.aspects if aspect not in config.reward.weights]:
        raise ConfigError(
            f"reward.weights has no {missing[0]!r}: every aspect of prompts.aspects needs a weight (0 = ignore)"
        )
