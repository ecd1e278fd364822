"""Who runs where: the processes a config asks for, and whether the cluster has room for them."""

from collections.abc import Mapping

from actors.telemetry import RoleSize
from actors.worker import RoleSpec, WorkerSpec
from itercomp_rl.errors import ConfigError
from itercomp_rl.schema import Config, RoleConfig


def members(config: Config) -> list[tuple[RoleSpec, RoleConfig]]:
    """Every member of every role; reward learners are one per aspect, dealt to `reward_learners.count` processes."""
    actors = config.actors
    found: list[tuple[RoleSpec, RoleConfig]] = []
    for kind, role in (
        ("policy_learner", actors.policy_learners),
        ("sampler", actors.samplers),
        ("judge", actors.judges),
        ("roller", actors.rollers),
    ):
        found += [(RoleSpec(kind=kind, name=f"{kind}-{i}"), role) for i in range(role.count)]
    found += [
        (RoleSpec(kind="reward_learner", name=f"reward_learner-{aspect}"), actors.reward_learners)
        for aspect in config.prompts.aspects
    ]
    return found


def workers(config: Config) -> list[WorkerSpec]:
    """The processes of a run: `actors.processes` that share everything, or one per member."""
    actors = config.actors
    if actors.layout == "shared":
        held: list[list[RoleSpec]] = [[] for _ in range(actors.processes)]
        places: dict[str, int] = {}
        for spec, _ in members(config):
            place = places.get(spec.kind, 0)
            held[place % actors.processes].append(spec)
            places[spec.kind] = place + 1
        gpus = max(role.gpus for _, role in members(config))
        return [
            WorkerSpec(label=f"shared-{i}", roles=tuple(roles), cpus=actors.threads, gpus=gpus)
            for i, roles in enumerate(held)
        ]
    found = []
    reward = [spec for spec, _ in members(config) if spec.kind == "reward_learner"]
    for i in range(min(actors.reward_learners.count, len(reward))):
        role = actors.reward_learners
        roles = tuple(reward[i :: role.count])
        found.append(WorkerSpec(label=f"reward_learner-{i}", roles=roles, cpus=role.cpus, gpus=role.gpus))
    found += [
        WorkerSpec(label=spec.name, roles=(spec,), cpus=role.cpus, gpus=role.gpus)
        for spec, role in members(config)
        if spec.kind != "reward_learner"
    ]
    return found


def role_sizes(config: Config) -> tuple[dict[str, RoleSize], RoleSize | None]:
    """How many members each role has and what each holds; and the processes that all roles share, where they do."""
    actors = config.actors
    found: dict[str, RoleSize] = {}
    for kind in ("policy_learner", "sampler", "judge", "roller", "reward_learner"):
        role: RoleConfig = getattr(actors, f"{kind}s")
        count = min(role.count, len(config.prompts.aspects)) if kind == "reward_learner" else role.count
        devices, device = (role.gpus, "gpu") if role.gpus else (role.cpus, "cpu")
        found[kind] = RoleSize(members=count, devices=devices, device=device)
    if actors.layout != "shared":
        return found, None
    spec = workers(config)[0]
    device = "gpu" if spec.gpus else "cpu"
    return found, RoleSize(members=actors.processes, devices=spec.gpus or spec.cpus, device=device)


def check_room(specs: list[WorkerSpec], resources: Mapping[str, float]) -> None:
    """Raises: ConfigError with a table of what is short; a process that finds no room would wait for ever, silent."""
    needed = {"CPU": sum(spec.cpus for spec in specs), "GPU": sum(spec.gpus for spec in specs)}
    short = [
        f"  {name}: {amount:g} needed, {resources.get(name, 0):g} in the cluster"
        for name, amount in needed.items()
        if amount > resources.get(name, 0)
    ]
    if short:
        asking = "\n".join(f"  {spec.label}: {spec.cpus:g} CPU, {spec.gpus:g} GPU" for spec in specs)
        raise ConfigError(
            "the cluster is too small for actors.*:\n" + "\n".join(short) + f"\nasked for by\n{asking}\n"
            "lower the counts, cpus or gpus of actors.*, or set actors.layout=shared"
        )
