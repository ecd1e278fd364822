"""Checks of a run's prompts, models, judges and rank files, made before any process starts."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from itercomp_rl.config.judging_sources import fixed_scorers
from itercomp_rl.config.rules.gallery import PLANNED
from itercomp_rl.config.rules.judging import is_rank_file
from itercomp_rl.config.schema import OWN_POLICY, Config
from itercomp_rl.config.scorer_names import HTTP, OWN, PYTHON, parse_scorer
from itercomp_rl.diffusion.checkpoint import GALLERY_ONLY, check_scheduler, drawing_checkpoint, policy_checkpoint
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.evaluation.overlap import overlap_of, overlap_sentence, probe_overlap
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import Prompt
from itercomp_rl.judges.rank_files import check_coverage, load_ranks
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.imported import count_rankings, open_preferences
from itercomp_rl.reward.source import check_reward_source

log = logging.getLogger(__name__)

# Pipelines that a planned system can draw with.
_CARRIERS = {
    "rpg": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "omost": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "lmd": ("StableDiffusionPipeline", *GALLERY_ONLY),
    "instance_diffusion": ("StableDiffusionPipeline", *GALLERY_ONLY),
}


def check_splits(plan: Plan) -> None:
    """Raises: ConfigError if an aspect has no prompt to rank or to grade, or every held-out prompt is trained on.

    A warning counts the held-out prompts that are trained on.
    """
    prompts = plan.config.prompts
    gallery, sources = plan.gallery_prompts, {"shapes": "prompts.world", "t2i_compbench": "T2I-CompBench"}
    held_out = [prompt for order in plan.evaluation_orders(plan.policy(-1)) for prompt in order.prompts]
    for kind, found, file in (
        ("held-out", held_out, f"prompts.test_file {prompts.test_file!r}"),
        ("gallery", gallery, f"prompts.train_file {prompts.train_file!r}"),
    ):
        for aspect in prompts.aspects:
            if not any(aspect in prompt.aspects for prompt in found):
                raise ConfigError(
                    f"prompts.aspects names {aspect!r}, but none of the {len(found)} {kind} prompts is about it "
                    f"({sources.get(prompts.source, file)}): add prompts that are, or take the aspect out"
                )
    shared = overlap_of(plan)
    if shared.num_trained_on == shared.num_prompts:
        raise ConfigError(
            f"prompts.test_file is {prompts.test_file!r}: all {shared.num_prompts} held-out prompts are trained on too "
            f"({shared.example!r} first): hold out prompts that prompts.train_file and prompts.policy_file do not have"
        )
    if sentence := overlap_sentence(shared.tree()):
        log.warning("%s Take them out of one of the files", sentence)
    if plan.config.evaluation.probe_every:
        _check_probe_prompts(plan)


def _check_probe_prompts(plan: Plan) -> None:
    """Raises: ConfigError if probes draw no prompt about an aspect, or only prompts that are trained on.

    A warning counts those that are.
    """
    drawn = [prompt for prompt, _ in plan.probe_prompts]
    for aspect in plan.config.prompts.aspects:
        if not any(aspect in prompt.aspects for prompt in drawn):
            raise ConfigError(
                f"evaluation.probe_images is {len(drawn)}: none of them is about {aspect!r}, of which there are "
                "few prompts; raise the number"
            )
    shared, file = probe_overlap(plan), plan.config.prompts.validation_file
    if shared.num_trained_on == shared.num_prompts:
        raise ConfigError(
            f"prompts.validation_file is {file!r}: all {shared.num_prompts} prompts of its probes are trained on too "
            f"({shared.example!r} first): give others, or null to keep some of the policy's prompts out of training"
        )
    if shared.num_trained_on:
        log.warning(
            "%d of %d prompts of the probes are trained on too, such as %r: take them out of one of the files",
            shared.num_trained_on,
            shared.num_prompts,
            shared.example,
        )


def check_models(config: Config) -> None:
    """Raises: CheckpointError naming the first model of the config that cannot be loaded."""
    own = policy_checkpoint(checkpoint_path(config.policy.model))
    own.log_variant()
    pipeline = own.pipeline
    if pipeline in GALLERY_ONLY:
        raise CheckpointError(f"policy.model is {config.policy.model!r}, a {pipeline}: it can only be a gallery member")
    for name, member in config.gallery.members.items():
        if member.is_external:
            continue
        checkpoint = config.policy.model if member.model == OWN_POLICY else member.model
        drawn = (policy_checkpoint if member.system in PLANNED else drawing_checkpoint)(checkpoint_path(checkpoint))
        if checkpoint != config.policy.model:
            drawn.log_variant()
        found = drawn.pipeline
        if member.system in PLANNED and found not in _CARRIERS[member.system]:
            kinds = "SDXL" if member.system in ("rpg", "omost") else "GLIGEN"
            raise CheckpointError(
                f"gallery.members.{name}.model is {member.model!r}, a {found}: system {member.system!r} needs an SD1.x "
                f"or {kinds} checkpoint"
            )
    check_scheduler(pipeline, config.policy.scheduler)
    for key, source in fixed_scorers(config).items():
        kind, checkpoint = parse_scorer(source)
        if kind == PYTHON:
            _check_class(key, source)
        elif kind == HTTP:
            from itercomp_rl.judges.remote import check_answers  # here: few runs need an HTTP client

            check_answers(key, checkpoint)
        else:
            check_reward_source(key, source)
            _check_tokenizer(key, source)


def _check_class(key: str, source: str) -> None:
    """Raises: ConfigError, naming setting `key`, for a class that cannot be imported, or climbed where it must be."""
    from itercomp_rl.reward.custom import find_custom  # here: these need torch
    from itercomp_rl.reward.frozen import check_differentiable

    found = find_custom(key, parse_scorer(source).checkpoint)
    if key.startswith("policy.frozen_rewards."):
        check_differentiable(key, source, found)


def check_external(plan: Plan) -> None:
    """Read the images of the members that are folders, and ask those that are endpoints for one image each.

    Raises: ConfigError, naming member, file and row, for what cannot be used.
    """
    if any(member.is_external for member in plan.config.gallery.members.values()):
        # Imported here: few runs have such members, and an HTTP client takes its time.
        from itercomp_rl.gallery.external import preflight

        preflight.check_external(plan)


def check_preferences(config: Config) -> None:
    """Log how many imported rankings reward models learn from.

    Raises: ConfigError for a folder of reward.preferences without any, or without one of an aspect of the run; also for
    an aspect that nothing teaches, as there is no gallery.
    """
    aspects, total = config.prompts.aspects, Counter[str]()
    has_founders = any(member.join_round == 0 for member in config.gallery.members.values())
    for folder in config.reward.preferences:
        found = count_rankings(open_preferences(folder))
        if not any(aspect in found for aspect in aspects):
            raise ConfigError(
                f"reward.preferences names {folder!r}, which holds preferences under {', '.join(found)}, and "
                f"prompts.aspects is {', '.join(aspects)}: import them under one of these (--aspect)"
            )
        total += found
    for aspect in aspects if config.reward.preferences else ():
        log.info("%s: %d imported rankings", aspect, total[aspect])
        if not has_founders and not total[aspect]:
            raise ConfigError(
                f"reward.preferences holds nothing under {aspect!r} of prompts.aspects, and no member of "
                "gallery.members has join_round 0: import preferences under it, or take the aspect out"
            )


def check_vlm(plan: Plan, *, is_whole: bool) -> None:
    """Ask a vision-language judge's endpoint one question, or check the checkpoint that judges will load.

    Args: is_whole: nothing of the run is taken over from another.
    Raises: ConfigError if the endpoint does not answer, or the run asks more than judge.vlm.max_requests;
    CheckpointError for a checkpoint that cannot judge.
    """
    judge, vlm = plan.config.judge, plan.config.judge.vlm
    if "vlm" not in (judge.first_round, judge.later_rounds, plan.config.evaluation.judge):
        return
    # Imported here: few runs ask such a model, and HTTP clients and transformers take their time.
    from itercomp_rl.judges.vlm.preflight import check_budget, check_endpoint_answers

    if vlm.url is not None:
        check_endpoint_answers(vlm)
    else:
        from itercomp_rl.judges.vlm.local import check_local_vlm

        check_local_vlm(str(vlm.model))
    check_budget(plan, is_whole=is_whole)


def _check_tokenizer(key: str, source: str) -> None:
    """Raises: CheckpointError, naming setting `key`, if `source` is an official file whose tokenizer cannot be had."""
    name = parse_scorer(source)
    if name.kind not in (OWN, "imagereward") or Path(checkpoint_path(name.checkpoint)).is_dir():
        return  # the tokenizer of a published model on CLIP was read with its configuration
    from itercomp_rl.reward.checkpoint import official_tokenizer  # here: a model of this project needs no transformers

    try:
        official_tokenizer(name.checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{key} is {source!r}: {error}") from error


def check_ranks(config: Config, prompts: Sequence[Prompt]) -> None:
    """Raises: ConfigError if the first round's ranks come from files that are wrong or rank none of the prompts."""
    source = config.judge.first_round
    if not is_rank_file(source):
        return
    ranks = load_ranks(source, config.prompts.aspects, list(config.gallery.members))
    for aspect, count in check_coverage(source, ranks, prompts, config.prompts.aspects).items():
        log.info("%s: %d of %d gallery prompts are ranked", aspect, count, len(prompts))
