"""Whether a run fits in memory, told before anything starts: an estimate per process and device, from configs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from itercomp_rl.config.schema import ALL, Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.forecast.machine import ram_bytes
from itercomp_rl.forecast.role_memory import Need, encoded_prompt_bytes, need

GIB = 2**30
# What a process takes before it holds any model: Python, torch and Ray; and CUDA's context beside that.
PROCESS_BYTES = {"cpu": int(0.45 * GIB), "gpu": int(0.6 * GIB)}
READERS = ("judge-", "reward_learner-", "policy_learner-")  # how the names of roles begin that read images


@dataclass(frozen=True, kw_only=True)
class Turns:
    """These flags state which roles of a process never work at the same time.

    If two roles take turns, only the larger of their needs counts.
    Example: Turns(draw_or_learn=True, reward_or_policy=True)
    """

    draw_or_learn: bool  # samplers and judges free their models when a learner of their process begins
    reward_or_policy: bool

    @staticmethod
    def of(config: Config) -> Turns:
        """The roles that take turns under a config: those whose phases it never lets overlap."""
        ahead = config.gallery.rounds_ahead and any(
            0 < member.join_round < config.run.rounds for member in config.gallery.members.values()
        )
        overlaps = config.evaluation.probe_every or config.reward.rankings_first != ALL or ahead
        return Turns(draw_or_learn=not overlaps, reward_or_policy=config.policy.reward_updates_first == ALL)


@dataclass(frozen=True, kw_only=True)
class ProcessNeed:
    """A process: its share of a GPU (0 = none), what its roles need, and the RAM for images that it reads ahead."""

    label: str
    gpus: float
    needs: tuple[Need, ...]
    turns: Turns = Turns(draw_or_learn=True, reward_or_policy=True)
    images: int = 0

    @property
    def total(self) -> int:
        """On its GPU, or in RAM without one."""
        reward, policy = self._of("reward_learner"), self._of("policy_learner")
        drawing, learning = self._of("sampler", "judge"), reward + policy
        if self.turns.reward_or_policy:
            learning = max(reward, policy)
        takes_turns = self.turns.draw_or_learn and learning
        most = max(drawing, learning) if takes_turns else drawing + learning
        beside = PROCESS_BYTES["gpu"] if self.gpus else self.ram
        return most + self._of("roller") + beside

    @property
    def ram(self) -> int:
        """In RAM beside what stays on its device: the process, images that it reads ahead, weights that pass."""
        return PROCESS_BYTES["cpu"] + self.images + max((held.passing for held in self.needs), default=0)

    def _of(self, *kinds: str) -> int:
        return sum(held.total for held in self.needs if held.role.startswith(tuple(f"{kind}-" for kind in kinds)))


def process_need(config: Config, label: str, roles: Sequence[str], gpus: float) -> ProcessNeed:
    """Estimate the memory that a process with these roles needs. gpus: its share of a GPU, 0 for none."""
    return ProcessNeed(
        label=label,
        gpus=gpus,
        needs=tuple(need(config, role, on_gpu=gpus > 0, beside=roles) for role in roles),
        turns=Turns.of(config),
        images=int(config.store.image_memory_mib * 2**20) if any(role.startswith(READERS) for role in roles) else 0,
    )


def check_memory(config: Config, processes: Mapping[str, tuple[Sequence[str], float]]) -> str:
    """The table of what every process needs. processes: label -> (names of its roles, its share of a GPU).

    A GPU's size is actors.gpu_gib, or what torch sees here; processes without one share this machine's memory, which
    is checked where there are no GPUs (elsewhere they may lie on any node).
    Raises: ConfigError with the table and the settings that would help, if something cannot fit.
    """
    kinds = {(tuple(roles), gpus) for roles, gpus in processes.values()}  # thousands of processes are of a few kinds
    made = {kind: process_need(config, "", *kind) for kind in kinds}
    places = [replace(made[tuple(roles), gpus], label=label) for label, (roles, gpus) in processes.items()]
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
        for held in place.needs:
            parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in held.parts.items() if size >= GIB / 200)
            lines.append(f"{held.total / GIB:15.2f} {held.role}: {parts or 'no weights of its own'}")
        lines.append(f"{place.ram / GIB:15.2f} RAM{' beside' if place.gpus else ''}: {_ram(place)}")
        if place.gpus and gpu_gib is not None:
            room = gpu_gib * min(place.gpus, 1.0)
            if place.total > room * GIB:
                too_much.append(f"{place.label} needs {place.total / GIB:.1f} GiB of its GPU share of {room:.1f}")
    lines.append(
        f"{encoded_prompt_bytes(config) / GIB:7.2f} encoded prompts, in files on each node that its processes map"
    )
    on_cpu = sum(place.total for place in places if not place.gpus)
    ram = ram_bytes()
    if not any(place.gpus for place in places):
        lines.append(f"{on_cpu / GIB:7.2f} in all, of {ram / GIB:.2f} GiB of RAM here")
        if on_cpu > ram:
            too_much.append(f"{on_cpu / GIB:.1f} GiB of RAM are needed and this machine has {ram / GIB:.1f}")
    else:
        lines.append(f"{sum(place.ram for place in places) / GIB:7.2f} of RAM in all, on the nodes together")
    if gpu_gib is None and any(place.gpus for place in places):
        lines.append("        the size of the GPUs is not known here: set actors.gpu_gib to have it checked")
    return lines, too_much


def _ram(place: ProcessNeed) -> str:
    passing = place.ram - PROCESS_BYTES["cpu"] - place.images
    parts = {"process": PROCESS_BYTES["cpu"], "images read ahead": place.images, "weights that pass": passing}
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size >= GIB / 200)


def _gpu_gib_here() -> float | None:
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / GIB


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
    if config.actors.layout == "separate":
        yield "  actors.layout=shared: rollers use the learner's network, samplers and judges make room for learners"
    yield "  actors.*.count lower, or more machines"
