"""Settings of the actors: how many of each role, what they hold, and what their devices can compute."""

import re

from itercomp_rl.config.rules.terms import one_of, require
from itercomp_rl.config.schema import Config


def check_actors(config: Config) -> None:
    """What every role holds, what the layout allows, and what the devices can compute."""
    one_of("actors.layout", config.actors.layout, ("shared", "separate"))
    _roles(config)
    if config.actors.layout == "shared":
        _shared(config)
    elif config.actors.autoscale:
        _autoscale(config)
    _attention(config)
    _half_precision(config)


def _roles(config: Config) -> None:
    for name in ("samplers", "judges", "rollers", "reward_learners", "policy_learners"):
        role, key = getattr(config.actors, name), f"actors.{name}"
        require(role.cpus >= 0, f"{key}.cpus", role.cpus, "must be 0 or more")
        require(role.gpus >= 0, f"{key}.gpus", role.gpus, "must be 0 or more")
        is_whole = role.gpus <= 1 or float(role.gpus).is_integer()
        require(is_whole, f"{key}.gpus", role.gpus, "above 1 only whole GPUs: a part of one is not joined with others")
        for resource, amount in role.resources.items():
            require(amount > 0, f"{key}.resources.{resource}", amount, "must be above 0")
            own = resource.lower() not in ("cpu", "gpu", "memory", "object_store_memory")
            require(own, f"{key}.resources", resource, "is no custom resource: use cpus and gpus")
        for label, value in role.labels.items():
            is_plain = re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", value) is not None
            require(is_plain, f"{key}.labels.{label}", value, "must be a plain value of a node's label")


def _shared(config: Config) -> None:
    actors = config.actors
    for name in ("judges", "rollers", "reward_learners", "policy_learners"):
        labels = getattr(actors, name).labels
        same = labels == actors.samplers.labels
        require(same, f"actors.{name}.labels", labels, "in layout shared all roles name the same labels")
    ranks = actors.policy_learners.count
    require(
        ranks <= actors.processes,
        "actors.policy_learners.count",
        ranks,
        f"a shared process holds one rank: at most actors.processes ({actors.processes})",
    )


def _autoscale(config: Config) -> None:
    actors = config.actors
    for name in ("cpus", "gpus", "resources", "labels"):
        mine, other = getattr(actors.rollers, name), getattr(actors.samplers, name)
        require(
            mine == other,
            f"actors.rollers.{name}",
            mine,
            f"with actors.autoscale a process draws or rolls: as actors.samplers.{name} ({other!r})",
        )
    for name, kept in (("min_samplers", actors.min_samplers), ("min_rollers", actors.min_rollers)):
        require(kept >= 0, f"actors.{name}", kept, "must be 0 or more")
    num = actors.samplers.count + actors.rollers.count
    require(
        actors.min_samplers + actors.min_rollers <= num and max(actors.min_samplers, actors.min_rollers) < num,
        "actors.min_samplers + actors.min_rollers",
        (actors.min_samplers, actors.min_rollers),
        f"must leave some of the {num} processes of samplers and rollers to either",
    )


def _attention(config: Config) -> None:
    for key, kind, dtype in (
        ("policy.attention", config.policy.attention, config.policy.engine.dtype),
        ("gallery.attention", config.gallery.attention, config.gallery.dtype),
        ("reward.attention", config.reward.attention, config.reward.engine.dtype),
    ):
        one_of(key, kind, ("sdpa", "flash"))
        if kind == "flash":
            require(
                dtype != "fp32", key, kind, f"FlashAttention computes in bf16 or fp16, and this part's dtype is {dtype}"
            )
            require(config.actors.device != "cpu", key, kind, "FlashAttention needs a GPU, and actors.device is 'cpu'")
    if config.gallery.attention == "flash":
        for name, member in config.gallery.members.items():
            require(
                member.dtype != "fp32",
                f"gallery.members.{name}.dtype",
                member.dtype,
                "FlashAttention, which gallery.attention asks for, computes in bf16 or fp16: set one, or sdpa there",
            )


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
        require(dtype != "fp16", key, dtype, "samplers run on the CPU, which computes bf16 or fp32 but not fp16")
