"""This module estimates the memory of each role, split by purpose, without loading any weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from itercomp_rl.config.judging_sources import COMPBENCH_MODELS, for_evaluation, reward_sources
from itercomp_rl.config.schema import OWN_POLICY, Config, EngineConfig, PolicyConfig
from itercomp_rl.config.scorer_names import HTTP, PYTHON, parse_scorer
from itercomp_rl.diffusion.checkpoint import WEIGHTS_NEEDED, drawing_checkpoint, load_index
from itercomp_rl.diffusion.component_files import transformers_weights
from itercomp_rl.diffusion.family import DTYPES
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.tensors import num_numbers
from itercomp_rl.forecast.model_sizes import KNOWN, Sizes, drawing_params, kept_bytes, num_params, sizes
from itercomp_rl.loop.member_counts import rollers_borrow
from itercomp_rl.reward.checkpoint import AnyConfig, load_reward_config, make_reward
from itercomp_rl.reward.clip_checkpoint import CLIP_KINDS, load_clip_config
from itercomp_rl.reward.preference import freeze

BUCKET = 500_000_000  # numbers: DeepSpeed's reduce_bucket_size, which this project leaves as it is


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one role in one process, by what they are for: Need(role="roller-0", parts={"network": 5_134_000}).

    parts: on its device. passing: weights that are in RAM for a while, at most, beside what stays there.
    """

    role: str
    parts: Mapping[str, int]
    passing: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def need(config: Config, role: str, *, on_gpu: bool, beside: Sequence[str] = ()) -> Need:
    """Estimate the memory that one role needs in its process.

    Example: need(config, "policy_learner-0", on_gpu=True). beside: the names of all roles in the same process; a
    roller that uses the network of a policy learner among them holds no weights.
    """
    kind = role.split("-")[0]
    if kind == "roller" and rollers_borrow(config) and any(other.startswith("policy_learner-") for other in beside):
        return Need(role=role, parts={})  # it uses the learner's network
    parts = _NEEDS[kind](config, on_gpu)
    if kind in ("policy_learner", "roller"):
        parts |= _text(config, parts, on_gpu)
    return Need(role=role, parts=parts, passing=_PASSING[kind](config, parts, on_gpu))


def _text(config: Config, parts: Mapping[str, int], on_gpu: bool) -> dict[str, int]:
    """Text encoders leave before the rest comes: they count as far as they are more.

    On a GPU they are alone at first; on a CPU network and VAE are in memory by then.
    """
    found, width = _policy_sizes(config), DTYPES[config.policy.engine.dtype].itemsize
    later = sum(size for name, size in parts.items() if on_gpu or name not in ("network", "VAE"))
    return {"text encoders at first": max(0, found.text_params * width - later)}


def encoded_prompt_bytes(config: Config) -> int:
    """Estimate the size of the encoded-prompt files that the processes of a node share.

    They hold the prompts of rollouts and, if the policy is regularised on gallery images, the prompts of the gallery.
    """
    policy, found = config.policy, _policy_sizes(config)
    num = min(config.prompts.policy, policy.updates * policy.batch * config.run.rounds)
    num += config.prompts.gallery if _is_regularised(policy) else 0
    return num * found.prompt_numbers * DTYPES[policy.engine.dtype].itemsize


def _policy_sizes(config: Config) -> Sizes:
    policy = config.policy
    return sizes(
        checkpoint_path(policy.model),
        policy.size_px,
        DTYPES[policy.engine.dtype],
        policy.gradient_checkpointing,
        tuple(policy.lora.targets or ()),
    )


def _learner(config: Config, on_gpu: bool) -> dict[str, int]:
    policy, found = config.policy, _policy_sizes(config)
    width = DTYPES[policy.engine.dtype].itemsize
    adapter, trained = policy.lora.rank * found.lora_params, _trained(config)
    ranks = config.actors.policy_learners.count
    guided = 2 if policy.rollout_guidance and policy.rollout_guidance > 1 and found.pipeline != "FluxPipeline" else 1
    rewards = _reward_sizes(config)
    num_aspects = len(config.prompts.aspects)
    frozen = _loaded_sizes(term.source for term in policy.frozen_rewards.values())
    climbed_bytes = num_aspects * rewards.image_bytes + sum(one.image_bytes for one in frozen)
    whole = (found.network_params + adapter) * width
    denoised = 0  # gallery images whose loss is backpropagated together with a rollout's
    if _is_regularised(policy):
        denoised = max(1, policy.pretraining_batch * policy.rollout_batch // policy.batch)
        if policy.pretraining_weight and policy.stay_near_base and found.pipeline == "FluxPipeline":
            denoised *= 2  # predicted at a guidance of 1 and at the policy's own
    is_base_copied = policy.stay_near_base > 0 and not adapter  # an adapter is switched off instead
    activations = denoised * found.network_bytes + policy.rollout_batch * (
        found.network_bytes * guided * policy.grad_steps + found.vae_bytes + climbed_bytes
    )
    return {
        "network": whole // (ranks if policy.engine.zero_stage == 3 else 1),
        "base": found.network_params * width if is_base_copied else 0,
        **training_bytes(policy.engine, trained, ranks, on_gpu=on_gpu, activations=activations),
        "VAE": found.vae_params * 4,
        "reward models": (num_aspects * rewards.params + sum(one.params for one in frozen)) * 4,
        "activations": activations,
    }


def _trained(config: Config) -> int:
    """Parameters of the policy that learn."""
    found = _policy_sizes(config)
    return config.policy.lora.rank * found.lora_params or found.network_params


def _is_regularised(policy: PolicyConfig) -> bool:
    """Whether gallery images are learned from beside the rewards."""
    return policy.pretraining_weight > 0 or policy.stay_near_base > 0


def training_bytes(
    engine: EngineConfig, trained: int, ranks: int, *, on_gpu: bool, activations: int = 0
) -> dict[str, int]:
    """Gradients, Adam's moments and master weights, moving average: of one rank.

    "a step beyond activations": what a step takes besides, as far as it is more than the activations, of which none is
    left by then: gradients in fp32, and temporaries of AdamW, which its fused kernel on a GPU has none of.
    """
    width = DTYPES[engine.dtype].itemsize
    stage = engine.zero_stage if engine.kind == "deepspeed" else 0
    is_plain, is_bf16 = engine.kind != "deepspeed", engine.dtype != "fp32"
    shared = ranks if stage else 1
    moments = 2 if engine.optimizer == "adamw_8bit" else 8
    # DeepSpeed keeps its own flat fp32 copy from stage 1 on, and a bf16 network needs fp32 masters anywhere
    masters = 4 if is_bf16 or stage else 0
    gradients = trained * width // (ranks if stage >= 2 else 1)
    if not is_plain and not stage and is_bf16:
        gradients += trained * 4  # DeepSpeed adds every backward pass to sums in fp32
    if stage:
        gradients += min(trained, BUCKET) * width  # what DeepSpeed reduces at a time
    if is_plain and ranks > 1:
        step = trained * 4  # one flat fp32 tensor, filled while the gradients are still there
    elif is_plain and is_bf16:
        step = trained * (4 - width)  # each gradient is freed as it is copied
    else:
        step = trained * 4 // ranks if stage else 0
    if stage and not on_gpu:
        step += trained * 8 // ranks  # a root and a quotient of the flat second moments
    return {
        "gradients": gradients,
        "optimizer": trained * (moments + masters) // shared,
        "moving average": trained * 4 // shared if engine.ema else 0,
        "a step beyond activations": max(0, step - activations),
    }


def published_bytes(config: Config) -> tuple[int, int]:
    """Bytes of one version of the policy: a live one, in the engine's dtype, and a round's or a probed one, in fp32."""
    trained = _trained(config)
    return trained * DTYPES[config.policy.engine.dtype].itemsize, trained * 4


def _roller(config: Config, on_gpu: bool) -> dict[str, int]:
    found, width = _policy_sizes(config), DTYPES[config.policy.engine.dtype].itemsize
    return {"network": (found.network_params + config.policy.lora.rank * found.lora_params) * width}


def _sampler(config: Config, on_gpu: bool) -> dict[str, int]:
    gallery, held = config.gallery, sorted(_drawing_sizes(config), reverse=True)
    chats = {member.planner for member in gallery.members.values() if member.planner in gallery.planners}
    asked = {gallery.planners[name].model for name in chats if gallery.planners[name].kind == "transformers"}
    return {
        f"models (at most {gallery.max_loaded})": sum(held[: gallery.max_loaded]),
        "planners": sum(_model_bytes(model) for model in asked if model),
    }


def _drawing_sizes(config: Config) -> list[int]:
    """Bytes of every model that samplers load."""
    gallery = config.gallery
    models = {(config.policy.model, gallery.dtype)}  # every round's policy draws, if only to be evaluated
    models |= {
        (config.policy.model if member.model == OWN_POLICY else member.model, member.dtype or gallery.dtype)
        for member in gallery.members.values()
        if not member.is_external  # a folder's or an endpoint's images take no model here
    }
    return [_drawing_bytes(model, DTYPES[dtype].itemsize) for model, dtype in models]


def _model_bytes(folder: str) -> int:
    """Weights of a transformers model as its files hold them; 0, as not known, while they are still on the hub."""
    return sum(file.stat().st_size for file in transformers_weights(Path(folder)))


def _drawing_bytes(model: str, width: int) -> int:
    path = checkpoint_path(model)
    if path not in KNOWN and load_index(path).get("_class_name") not in WEIGHTS_NEEDED:
        # A pipeline that only draws: what its files hold, nothing known while they are still on the hub.
        return width * sum(num_numbers(file) for file in drawing_checkpoint(path).tensors())
    drawing, vae = drawing_params(path)
    return drawing * width + vae * 4


def _judge(config: Config, on_gpu: bool) -> dict[str, int]:
    judge, num, fixed = config.judge, 0, 0
    for kind, named in ((judge.first_round, config), (config.evaluation.judge, for_evaluation(config))):
        if kind == "reward":  # fixed models, one for every source named
            fixed += sum(found.params for found in _loaded_sizes(reward_sources(named).values()))
    fixed += sum(found.params for found in _loaded_sizes(config.evaluation.metrics.values()))
    if judge.later_rounds == "reward" and config.run.rounds > 1:
        num += len(config.prompts.aspects)
    if config.evaluation.probe_every:  # those that the policy climbs, and from the second round on the first round's
        num += len(config.prompts.aspects) * min(2, config.run.rounds)
    return {
        "reward models": (num * _reward_sizes(config).params + fixed) * 4,
        "T2I-CompBench's models": _compbench_bytes(config),
        "vision-language model": _vlm_bytes(config),
    }


def _is_asked(config: Config, judge: str) -> bool:
    """Whether a run's rankings or grades are by the judge of a name."""
    later = (config.judge.later_rounds,) if config.run.rounds > 1 else ()
    return judge in (config.judge.first_round, config.evaluation.judge, *later)


def _vlm_bytes(config: Config) -> int:
    """Return the size of the vision-language model that judges load; a model behind an endpoint counts as 0."""
    vlm = config.judge.vlm
    is_loaded = _is_asked(config, "vlm") and vlm.url is None
    return _model_bytes(vlm.model) if is_loaded and vlm.model else 0


def _compbench_bytes(config: Config) -> int:
    """Return the size of the models with which T2I-CompBench's metrics score this config's aspects.

    Models that rank and models that grade are counted separately.
    """
    judge, found = config.judge, 0
    is_asked = judge.later_rounds == "t2i_compbench" and config.run.rounds > 1
    for named, is_used in (
        (config, is_asked or judge.first_round == "t2i_compbench"),
        (for_evaluation(config), config.evaluation.judge == "t2i_compbench"),
    ):
        settings = named.judge.t2i_compbench
        names = {name for aspect in config.prompts.aspects for name in COMPBENCH_MODELS.get(aspect, ())}
        found += sum(_model_bytes(getattr(settings, name)) for name in names) if is_used else 0
    return found


def _reward_learner(config: Config, on_gpu: bool) -> dict[str, int]:
    reward, found = config.reward, _reward_sizes(config)
    width = DTYPES[reward.engine.dtype].itemsize
    activations = 2 * (reward.micro_batch or reward.batch) * found.learning_bytes * width // 4
    return {
        "reward model": found.params * width,
        **training_bytes(reward.engine, found.trained, 1, on_gpu=on_gpu, activations=activations),
        "activations": activations,
    }


def _learner_passing(config: Config, parts: Mapping[str, int], on_gpu: bool) -> int:
    """A checkpoint as it is loaded, its released weights, or a version that is read or published, by what is most.

    A version is published from a copy of this rank's share and one flat array of that.
    """
    policy, found, trained = config.policy, _policy_sizes(config), _trained(config)
    ranks = config.actors.policy_learners.count
    is_refined = policy.engine.dtype != "fp32" and not policy.lora.rank
    goes_on = policy.start_from == "previous" and config.run.rounds > 1
    released, read = found.network_params * 4 * is_refined, trained * 4 * goes_on
    return max(_loaded(config, on_gpu, has_vae=True), released, read, 2 * trained * 4 // ranks)


def _loaded(config: Config, on_gpu: bool, *, has_vae: bool) -> int:
    """The policy's checkpoint on its way to a GPU; on a CPU it stays where it is loaded."""
    found, width = _policy_sizes(config), DTYPES[config.policy.engine.dtype].itemsize
    vae = found.vae_params * 4 if has_vae else 0
    return (found.network_params + found.text_params) * width + vae if on_gpu else 0


def _roller_passing(config: Config, parts: Mapping[str, int], on_gpu: bool) -> int:
    return max(_loaded(config, on_gpu, has_vae=False), published_bytes(config)[0])


def _sampler_passing(config: Config, parts: Mapping[str, int], on_gpu: bool) -> int:
    """The largest model on its way to a GPU, or a round's policy as it is read."""
    return max(max(_drawing_sizes(config)) if on_gpu else 0, published_bytes(config)[1])


def _judge_passing(config: Config, parts: Mapping[str, int], on_gpu: bool) -> int:
    return max(parts.values()) if on_gpu else 0


def _reward_passing(config: Config, parts: Mapping[str, int], on_gpu: bool) -> int:
    """A model as it is loaded, and as it is published: a copy and one flat array of it."""
    return _reward_sizes(config).params * 8


_PASSING = {
    "policy_learner": _learner_passing,
    "roller": _roller_passing,
    "sampler": _sampler_passing,
    "judge": _judge_passing,
    "reward_learner": _reward_passing,
}

_NEEDS = {
    "policy_learner": _learner,
    "roller": _roller,
    "sampler": _sampler,
    "judge": _judge,
    "reward_learner": _reward_learner,
}


@dataclass(frozen=True, kw_only=True)
class RewardSizes:
    """The reward model has `params` parameters, of which `trained` are trained.

    The two byte counts are the fp32 activations that autograd keeps for each image.
    """

    params: int
    trained: int
    image_bytes: int  # while the policy learns: gradient to the image alone
    learning_bytes: int  # while the model itself learns


def _reward_sizes(config: Config) -> RewardSizes:
    return reward_sizes(config.reward.trunk, config.reward.fix_rate)


def _loaded_sizes(sources: Iterable[str]) -> list[RewardSizes]:
    """Sizes of those scorers that a process loads, each once; of a class of the user's own nothing is known."""
    kinds = {source: parse_scorer(source).kind for source in sources}
    return [reward_sizes(source, 1.0) for source, kind in kinds.items() if kind not in (HTTP, PYTHON)]


def _config_of(source: str) -> AnyConfig:
    name = parse_scorer(source)
    if name.kind in CLIP_KINDS:
        return load_clip_config(name)
    path = checkpoint_path(name.checkpoint)
    return load_reward_config(Path(path) if Path(path).is_dir() else path)


@cache
def reward_sizes(trunk: str, fix_rate: float) -> RewardSizes:
    """Measured on the meta device, as `sizes`; trunk as in reward.trunk."""
    settings = _config_of(trunk)
    with torch.device("meta"):
        model = make_reward(settings).eval()
        ids = torch.ones(1, settings.max_text_tokens, dtype=torch.long)
        image = torch.empty(1, 3, settings.image_size, settings.image_size)

        def score(requires_grad: bool) -> torch.Tensor:
            return model(image.clone().requires_grad_(requires_grad), ids, ids)

        freeze(model, fix_rate)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        learning = kept_bytes(model, lambda: score(False))
        model.requires_grad_(False)
        return RewardSizes(
            params=num_params(model),
            trained=trained,
            image_bytes=kept_bytes(model, lambda: score(True)),
            learning_bytes=learning,
        )
