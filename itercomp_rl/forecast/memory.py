"""Whether a run fits in memory, told before anything starts: an estimate per process and device, from configs alone."""

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
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.tensors import num_numbers
from itercomp_rl.forecast.machine import ram_bytes
from itercomp_rl.forecast.model_sizes import KNOWN, Sizes, drawing_params, kept_bytes, num_params, sizes
from itercomp_rl.reward.checkpoint import AnyConfig, load_reward_config, make_reward
from itercomp_rl.reward.clip_checkpoint import CLIP_KINDS, load_clip_config
from itercomp_rl.reward.preference import freeze

GIB = 2**30
# What a process takes before it holds any model: Python, torch and Ray; and CUDA's context beside that.
PROCESS_BYTES = {"cpu": int(0.45 * GIB), "gpu": int(0.6 * GIB)}


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one role in one process, by what they are for: Need(role="roller-0", parts={"network": 5_134_000})."""

    role: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class ProcessNeed:
    """A process: its share of a GPU (0 = none), and what its roles need at once."""

    label: str
    gpus: float
    needs: tuple[Need, ...]

    @property
    def total(self) -> int:
        """Learners of rewards and of the policy take turns, so only the larger of the two counts."""
        by_kind = {"reward_learner": 0, "policy_learner": 0, "": 0}
        for need in self.needs:
            kind = next((kind for kind in by_kind if kind and need.role.startswith(kind)), "")
            by_kind[kind] += need.total
        learning = max(by_kind["reward_learner"], by_kind["policy_learner"])
        return by_kind[""] + learning + PROCESS_BYTES["gpu" if self.gpus else "cpu"]


def check_memory(config: Config, processes: Mapping[str, tuple[Sequence[str], float]]) -> str:
    """The table of what every process needs. processes: label -> (names of its roles, its share of a GPU).

    A GPU's size is actors.gpu_gib, or what torch sees here; processes without one share this machine's memory, which
    is checked where there are no GPUs (elsewhere they may lie on any node).
    Raises: ConfigError with the table and the settings that would help, if something cannot fit.
    """
    places = [
        ProcessNeed(label=label, gpus=gpus, needs=tuple(need(config, role, on_gpu=gpus > 0) for role in roles))
        for label, (roles, gpus) in processes.items()
    ]
    lines, too_much = memory_table(config, places)
    if too_much:
        raise ConfigError(
            f"the run does not fit in memory: {'; '.join(too_much)}\n"
            + "\n".join(lines)
            + "\n"
            + "\n".join(_ways_out(config))
        )
    return "\n".join(lines)


def memory_table(config: Config, places: Sequence[ProcessNeed]) -> tuple[list[str], list[str]]:
    """Lines of a table of GiB, and what is too much, if anything."""
    lines, too_much = ["GiB     process / role and what it holds"], []
    gpu_gib = config.actors.gpu_gib or _gpu_gib_here()
    for place in places:
        lines.append(f"{place.total / GIB:7.2f} {place.label}" + (f" on {place.gpus:g} GPU" if place.gpus else ""))
        for need in place.needs:
            parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in need.parts.items() if size >= GIB / 200)
            lines.append(f"{need.total / GIB:15.2f} {need.role}: {parts}")
        if place.gpus and gpu_gib is not None:
            room = gpu_gib * min(place.gpus, 1.0)
            if place.total > room * GIB:
                too_much.append(f"{place.label} needs {place.total / GIB:.1f} GiB of its GPU share of {room:.1f}")
    on_cpu = sum(place.total for place in places if not place.gpus)
    ram = ram_bytes()
    if not any(place.gpus for place in places):
        lines.append(f"{on_cpu / GIB:7.2f} in all, of {ram / GIB:.2f} GiB of RAM here")
        if on_cpu > ram:
            too_much.append(f"{on_cpu / GIB:.1f} GiB of RAM are needed and this machine has {ram / GIB:.1f}")
    elif gpu_gib is None:
        lines.append("        the size of the GPUs is not known here: set actors.gpu_gib to have it checked")
    return lines, too_much


def _gpu_gib_here() -> float | None:
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / GIB


def need(config: Config, role: str, *, on_gpu: bool) -> Need:
    """Of one role, by its name: need(config, "policy_learner-0", on_gpu=True)."""
    kind = role.split("-")[0]
    parts = _NEEDS[kind](config)
    if kind in ("policy_learner", "roller"):
        parts |= _text(config, parts, on_gpu)
    return Need(role=role, parts=parts)


def _text(config: Config, parts: Mapping[str, int], on_gpu: bool) -> dict[str, int]:
    """Text encoders leave before the rest comes: they count as far as they are more. What they said stays in RAM.

    On a GPU they are alone at first; on a CPU network and VAE are in memory by then.
    """
    policy, found, width = config.policy, _policy_sizes(config), DTYPES[config.policy.engine.dtype].itemsize
    later = sum(size for name, size in parts.items() if on_gpu or name not in ("network", "VAE"))
    found_first = {"text encoders at first": max(0, found.text_params * width - later)}
    if on_gpu:
        return found_first
    num = min(config.prompts.policy, policy.updates * policy.batch * config.run.rounds)
    num += config.prompts.gallery if _is_regularised(policy) else 0
    return found_first | {"encoded prompts": num * found.prompt_numbers * width}


def _policy_sizes(config: Config) -> Sizes:
    policy = config.policy
    return sizes(
        checkpoint_path(policy.model),
        policy.size_px,
        DTYPES[policy.engine.dtype],
        policy.gradient_checkpointing,
        tuple(policy.lora.targets or ()),
    )


def _learner(config: Config) -> dict[str, int]:
    policy, found = config.policy, _policy_sizes(config)
    width = DTYPES[policy.engine.dtype].itemsize
    adapter = policy.lora.rank * found.lora_params
    trained = adapter or found.network_params
    ranks = config.actors.policy_learners.count
    guided = 2 if policy.rollout_guidance and policy.rollout_guidance > 1 and found.pipeline != "FluxPipeline" else 1
    rewards = _reward_sizes(config)
    num_aspects = len(config.prompts.aspects)
    frozen = _loaded_sizes(term.source for term in policy.frozen_rewards.values())
    climbed_bytes = num_aspects * rewards.image_bytes + sum(found.image_bytes for found in frozen)
    whole = (found.network_params + adapter) * width
    denoised = 0  # gallery images whose loss is backpropagated together with a rollout's
    if _is_regularised(policy):
        denoised = max(1, policy.pretraining_batch * policy.rollout_batch // policy.batch)
        if policy.pretraining_weight and policy.stay_near_base and found.pipeline == "FluxPipeline":
            denoised *= 2  # predicted at a guidance of 1 and at the policy's own
    is_base_copied = policy.stay_near_base > 0 and not adapter  # an adapter is switched off instead
    return {
        "network": whole // (ranks if policy.engine.zero_stage == 3 else 1),
        "base": found.network_params * width if is_base_copied else 0,
        **_training(policy.engine, trained, ranks),
        "VAE": found.vae_params * 4,
        "reward models": (num_aspects * rewards.params + sum(found.params for found in frozen)) * 4,
        "activations": denoised * found.network_bytes
        + policy.rollout_batch * (found.network_bytes * guided * policy.grad_steps + found.vae_bytes + climbed_bytes),
    }


def _is_regularised(policy: PolicyConfig) -> bool:
    """Whether gallery images are learned from beside the rewards."""
    return policy.pretraining_weight > 0 or policy.stay_near_base > 0


def _training(engine: EngineConfig, trained: int, ranks: int) -> dict[str, int]:
    """Gradients, Adam's moments and master weights, moving average: of one rank."""
    width = DTYPES[engine.dtype].itemsize
    stage = engine.zero_stage if engine.kind == "deepspeed" else 0
    shared = ranks if stage else 1
    moments = 2 if engine.optimizer == "adamw_8bit" else 8
    # DeepSpeed keeps its own flat fp32 copy from stage 1 on, and a bf16 network needs fp32 masters anywhere
    masters = 4 if engine.dtype != "fp32" or stage else 0
    return {
        "gradients": trained * width // (ranks if stage >= 2 else 1),
        "optimizer": trained * (moments + masters) // shared,
        "moving average": trained * 4 // shared if engine.ema else 0,
    }


def published_bytes(config: Config) -> int:
    """Bytes of one version of the policy as learners publish it: what is trained, in the engine's dtype."""
    found = _policy_sizes(config)
    trained = config.policy.lora.rank * found.lora_params or found.network_params
    return trained * DTYPES[config.policy.engine.dtype].itemsize


def _roller(config: Config) -> dict[str, int]:
    found, width = _policy_sizes(config), DTYPES[config.policy.engine.dtype].itemsize
    adapter = config.policy.lora.rank * found.lora_params
    return {
        "network": (found.network_params + adapter) * width,
        "VAE": found.vae_params * 4,
    }


def _sampler(config: Config) -> dict[str, int]:
    gallery = config.gallery
    models = {(config.policy.model, gallery.dtype)}  # every round's policy draws, if only to be evaluated
    models |= {
        (config.policy.model if member.model == OWN_POLICY else member.model, member.dtype or gallery.dtype)
        for member in gallery.members.values()
        if not member.is_external  # a folder's or an endpoint's images take no model here
    }
    held = sorted((_drawing_bytes(model, DTYPES[dtype].itemsize) for model, dtype in models), reverse=True)
    chats = {member.planner for member in gallery.members.values() if member.planner in gallery.planners}
    asked = {gallery.planners[name].model for name in chats if gallery.planners[name].kind == "transformers"}
    return {
        f"models (at most {gallery.max_loaded})": sum(held[: gallery.max_loaded]),
        "planners": sum(_model_bytes(model) for model in asked if model),
    }


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


def _judge(config: Config) -> dict[str, int]:
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
    """Of a vision-language model that judges load; one behind an endpoint takes nothing here."""
    vlm = config.judge.vlm
    is_loaded = _is_asked(config, "vlm") and vlm.url is None
    return _model_bytes(vlm.model) if is_loaded and vlm.model else 0


def _compbench_bytes(config: Config) -> int:
    """Of the models that T2I-CompBench's metrics score this config's aspects with, to rank and to grade."""
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


def _reward_learner(config: Config) -> dict[str, int]:
    reward, found = config.reward, _reward_sizes(config)
    width = DTYPES[reward.engine.dtype].itemsize
    return {
        "reward model": found.params * width,
        **_training(reward.engine, found.trained, 1),
        "activations": 2 * (reward.micro_batch or reward.batch) * found.learning_bytes * width // 4,
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
    """Of one aspect's reward model: parameters, those that learn, and fp32 bytes kept per image."""

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


def _ways_out(config: Config) -> Iterable[str]:
    policy, engine = config.policy, config.policy.engine
    yield "what would help, as far as it is not set yet:"
    if engine.dtype == "fp32":
        yield "  policy.engine.dtype=bf16: network, gradients and activations in half"
    if not policy.gradient_checkpointing:
        yield "  policy.gradient_checkpointing=true: a fraction of the activations, about a third more time"
    if policy.rollout_batch > 1:
        yield f"  policy.rollout_batch={max(1, policy.rollout_batch // 2)}: activations in half, the same update"
    if not policy.lora.rank:
        yield "  policy.lora.rank=32: gradients and optimizer of the adapter alone"
    if policy.stay_near_base and not policy.lora.rank:
        yield "  policy.stay_near_base=0: no frozen copy of the network, which an adapter does not need either"
    if config.actors.policy_learners.count > 1 and engine.zero_stage < 3:
        yield f"  policy.engine.zero_stage={engine.zero_stage + 1}: more of the training state shared out"
    if engine.kind == "plain" and engine.optimizer == "adamw":
        yield "  policy.engine.optimizer=adamw_8bit: Adam's moments in a quarter"
    if config.gallery.max_loaded > 1:
        yield "  gallery.max_loaded=1: one gallery model at a time in a sampler"
    yield "  actors.*.count lower, or more machines"
