"""Who runs where: the processes a config asks for, and whether the cluster has room for them."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.telemetry import RoleSize
from actors.worker import RoleSpec, WorkerSpec
from itercomp_rl.config.schema import Config, RoleConfig
from itercomp_rl.errors import ConfigError
from itercomp_rl.loop.member_counts import num_members, share_processes

log = logging.getLogger(__name__)


def members(config: Config) -> list[tuple[RoleSpec, RoleConfig]]:
    """Every member of every role; reward learners are one per aspect, dealt to `reward_learners.count` processes."""
    actors = config.actors
    found: list[tuple[RoleSpec, RoleConfig]] = []
    for kind, role, num in (
        ("policy_learner", actors.policy_learners, actors.policy_learners.count),
        ("sampler", actors.samplers, num_members(actors, "sampler")),
        ("judge", actors.judges, actors.judges.count),
        ("roller", actors.rollers, num_members(actors, "roller")),
    ):
        found += [(RoleSpec(kind=kind, name=f"{kind}-{i}"), role) for i in range(num)]
    found += [
        (RoleSpec(kind="reward_learner", name=f"reward_learner-{aspect}"), actors.reward_learners)
        for aspect in config.prompts.aspects
    ]
    return found


def workers(config: Config) -> list[WorkerSpec]:
    """The processes of a run: `actors.processes` that share everything, or one per member.

    With autoscale a sampler and a roller are one process, `drawer-0`, ready for either's work.
    """
    actors = config.actors
    if actors.layout == "shared":
        held: list[list[RoleSpec]] = [[] for _ in range(actors.processes)]
        places: dict[str, int] = {}
        for spec, _ in members(config):
            place = places.get(spec.kind, 0)
            held[place % actors.processes].append(spec)
            places[spec.kind] = place + 1
        gpus = max(role.gpus for _, role in members(config))
        resources = {key: amount for _, role in members(config) for key, amount in role.resources.items()}
        labels = actors.samplers.labels  # of all roles, as itercomp_rl/config/rules sees to
        return [
            WorkerSpec(
                label=f"shared-{i}",
                roles=tuple(roles),
                cpus=actors.threads,
                gpus=gpus,
                resources=resources,
                labels=labels,
            )
            for i, roles in enumerate(held)
        ]
    found = []
    reward = [spec for spec, _ in members(config) if spec.kind == "reward_learner"]
    for i in range(min(actors.reward_learners.count, len(reward))):
        role = actors.reward_learners
        found.append(_alone(f"reward_learner-{i}", tuple(reward[i :: role.count]), role))
    drawers: dict[str, list[RoleSpec]] = {}
    for spec, role in members(config):
        if spec.kind in ("sampler", "roller") and share_processes(actors):
            drawers.setdefault(f"drawer-{spec.name.rpartition('-')[2]}", []).append(spec)
        elif spec.kind != "reward_learner":
            found.append(_alone(spec.name, (spec,), role))
    return found + [_alone(label, tuple(roles), actors.samplers) for label, roles in drawers.items()]


def _alone(label: str, roles: tuple[RoleSpec, ...], role: RoleConfig) -> WorkerSpec:
    return WorkerSpec(
        label=label, roles=roles, cpus=role.cpus, gpus=role.gpus, resources=role.resources, labels=role.labels
    )


def role_sizes(config: Config) -> tuple[dict[str, RoleSize], dict[tuple[str, ...], RoleSize]]:
    """How many members each role has and what each holds; and the processes that several roles share, where they do."""
    actors = config.actors
    found: dict[str, RoleSize] = {}
    for kind in ("policy_learner", "sampler", "judge", "roller", "reward_learner"):
        role: RoleConfig = getattr(actors, f"{kind}s")
        if kind == "reward_learner":
            count = min(role.count, len(config.prompts.aspects))
        else:
            count = role.count if kind == "policy_learner" else num_members(actors, kind)
        devices, device = (role.gpus, "gpu") if role.gpus else (role.cpus, "cpu")
        found[kind] = RoleSize(members=count, devices=devices, device=device)
    if share_processes(actors):
        return found, {("sampler", "roller"): found["sampler"]}
    if actors.layout != "shared":
        return found, {}
    spec = workers(config)[0]
    device = "gpu" if spec.gpus else "cpu"
    return found, {tuple(found): RoleSize(members=actors.processes, devices=spec.gpus or spec.cpus, device=device)}


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node has: Node(name="gpu-0", resources={"CPU": 96, "GPU": 8}, labels={"zone": "a"})."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def needs(spec: WorkerSpec) -> dict[str, float]:
    """What a process takes of its node, by Ray's names."""
    return {name: amount for name, amount in {"CPU": spec.cpus, "GPU": spec.gpus, **spec.resources}.items() if amount}


def unplaced(specs: Sequence[WorkerSpec], nodes: Sequence[Node]) -> list[WorkerSpec]:
    """Processes that find no place when the largest go first, each to the first node with room.

    A part of a GPU is taken from one GPU, as Ray does. Another order might place more, so an answer other than none is
    no proof.
    """
    free = [_Free(node) for node in nodes]
    order = sorted(specs, key=lambda spec: (-spec.gpus, -len(spec.labels) - len(spec.resources), -spec.cpus))
    return [spec for spec in order if not any(node.take(spec) for node in free)]


class _Free:
    def __init__(self, node: Node) -> None:
        self._labels, self._left = node.labels, dict(node.resources)
        self._gpus = [1.0] * int(self._left.pop("GPU", 0))

    def take(self, spec: WorkerSpec) -> bool:
        """Room for it, taken; False and nothing taken where there is none."""
        wanted = needs(spec)
        gpus = wanted.pop("GPU", 0.0)
        if any(self._labels.get(key) != value for key, value in spec.labels.items()):
            return False
        if any(self._left.get(name, 0.0) + 1e-9 < amount for name, amount in wanted.items()):
            return False
        share = min(gpus, 1.0)
        fitting = (
            [i for i, left in enumerate(self._gpus) if left + 1e-9 >= share][: max(1, round(gpus))] if gpus else []
        )
        if gpus and len(fitting) < max(1, round(gpus)):
            return False
        for i in fitting:
            self._gpus[i] -= share
        for name, amount in wanted.items():
            self._left[name] -= amount
        return True


def role_names(specs: Sequence[WorkerSpec]) -> dict[str, list[str]]:
    """The roles that each process holds, by its label."""
    return {spec.label: [role.name for role in spec.roles] for spec in specs}


def cores_and_gpus(specs: Sequence[WorkerSpec]) -> tuple[float, float]:
    """What all processes hold together."""
    return sum(spec.cpus for spec in specs), sum(spec.gpus for spec in specs)


def check_room(specs: Sequence[WorkerSpec], nodes: Sequence[Node]) -> None:
    """Raises: ConfigError with a table of what is short, where no order of placing could ever fit."""
    short = []
    wanted = {name: sum(needs(spec).get(name, 0.0) for spec in specs) for name in _names(specs)}
    for name, amount in wanted.items():
        there = sum(node.resources.get(name, 0.0) for node in nodes)
        if amount > there + 1e-9:
            short.append(f"  {name}: {amount:g} needed, {there:g} in the cluster")
    for spec in specs:
        if len(unplaced([spec], nodes)):
            short.append(f"  {spec.label}: {_asked(spec)} needed on one node, the most on one is {_most(spec, nodes)}")
    if short:
        raise ConfigError("the cluster is too small for actors.*:\n" + "\n".join(short) + "\n" + asked_for(specs))


def asked_for(specs: Sequence[WorkerSpec]) -> str:
    """The end of a refusal: who asks for what, equal ones in one line, and the way out."""
    counts = Counter((_kind(spec), _asked(spec)) for spec in specs)
    lines = [f"  {count} x {kind}: {asked}" for (kind, asked), count in counts.items()]
    return (
        "asked for by\n" + "\n".join(lines) + "\nlower the counts, cpus, gpus, resources or labels of actors.*, or set "
        "actors.layout=shared"
    )


def _names(specs: Sequence[WorkerSpec]) -> list[str]:
    return list(dict.fromkeys(["CPU", "GPU", *(name for spec in specs for name in spec.resources)]))


def _kind(spec: WorkerSpec) -> str:
    return spec.label.rpartition("-")[0]


def _asked(spec: WorkerSpec) -> str:
    parts = [f"{amount:g} {name}" for name, amount in needs(spec).items()]
    parts += [f"{key}={value}" for key, value in spec.labels.items()]
    return ", ".join(parts) or "nothing"


def _most(spec: WorkerSpec, nodes: Sequence[Node]) -> str:
    fitting = [node for node in nodes if all(node.labels.get(key) == value for key, value in spec.labels.items())]
    if not fitting:
        return "nothing: no node has these labels"
    return ", ".join(f"{max(node.resources.get(name, 0.0) for node in fitting):g} {name}" for name in needs(spec))


def cluster_nodes() -> list[Node]:
    """The nodes of the cluster that this driver is connected to."""
    return [
        Node(name=node["NodeManagerHostname"], resources=node["Resources"], labels=node.get("Labels", {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


@contextmanager
def reserved(specs: Sequence[WorkerSpec], timeout_s: float, *, cluster_grows: bool = False) -> Iterator[dict[str, Any]]:
    """The places of all processes, held at once or not at all: Ray's options for each process, by label.

    cluster_grows: what the cluster lacks is asked for and waited for, as Ray's autoscaler may add it.
    Raises: ConfigError if they cannot be had, now or within `timeout_s` (others may hold what is needed).
    """
    try:
        check_room(specs, cluster_nodes())
    except ConfigError as error:
        if not cluster_grows:
            raise
        log.info("%s\nwaiting up to %g s (actors.start_timeout_s) for nodes", error, timeout_s)
    placed = [spec for spec in specs if needs(spec)]
    options: dict[str, Any] = {
        spec.label: {"num_cpus": 0, "label_selector": dict(spec.labels) or None} for spec in specs if not needs(spec)
    }
    if not placed:
        yield options
        return
    group = placement_group(
        [needs(spec) for spec in placed], bundle_label_selector=[dict(spec.labels) for spec in placed]
    )
    try:
        if not group.wait(timeout_s):
            free = ray.available_resources()
            left = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in _names(specs))
            raise ConfigError(
                f"the cluster had no room for actors.* within actors.start_timeout_s ({timeout_s:g} s); free just now, "
                f"on all nodes together: {left}\n{asked_for(specs)}"
            )
        for index, spec in enumerate(placed):
            options[spec.label] = {
                "num_cpus": spec.cpus,
                "num_gpus": spec.gpus,
                "resources": dict(spec.resources) or None,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            }
        yield options
    finally:
        remove_placement_group(group)
