"""Who runs where, and the refusal of what cannot be placed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from actors.worker import WorkerSpec
from cluster.placement import Node, check_room, unplaced, workers
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError

ROOT = Path(__file__).parents[2]


def node(name: str = "one", labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(name=name, resources=resources, labels=labels or {})


def process(label: str, cpus: float = 1, gpus: float = 0, **labels: str) -> WorkerSpec:
    return WorkerSpec(label=label, roles=(), cpus=cpus, gpus=gpus, labels=labels)


def test_shared_layout_deals_every_role_over_the_processes() -> None:
    config = load_config("quickstart")
    found = workers(config)
    assert [spec.label for spec in found] == ["shared-0", "shared-1"]
    names = [role.name for spec in found for role in spec.roles]
    assert len(names) == len(set(names)) == 2 + 2 + 2 + 2 + 3
    for spec in found:
        assert sum(role.kind == "policy_learner" for role in spec.roles) == 1


def test_separate_layout_gives_each_member_a_process_of_its_own() -> None:
    config = load_config("quickstart", ["actors.layout=separate", "actors.samplers.count=5"])
    found = workers(config)
    assert sum(spec.label.startswith("sampler") for spec in found) == 5
    rewards = [role.name for spec in found for role in spec.roles if role.kind == "reward_learner"]
    assert sorted(rewards) == [f"reward_learner-{a}" for a in ("attribute", "non_spatial", "spatial")]
    assert sum(spec.label.startswith("reward_learner") for spec in found) == 2  # three aspects dealt to two


def test_with_autoscale_a_process_holds_a_sampler_and_a_roller() -> None:
    counts = ["actors.samplers.count=3", "actors.rollers.count=2", "actors.layout=separate", "actors.autoscale=true"]
    found = {spec.label: [role.name for role in spec.roles] for spec in workers(load_config("tiny", counts))}
    assert {label: names for label, names in found.items() if label.startswith("drawer")} == {
        f"drawer-{i}": [f"sampler-{i}", f"roller-{i}"] for i in range(5)
    }
    assert len(found) == 5 + 2 + 2 + 1  # policy learners, reward learners, a judge


def test_with_autoscale_samplers_and_rollers_ask_for_the_same() -> None:
    wanted = ["actors.layout=separate", "actors.autoscale=true", "actors.rollers.cpus=2"]
    with pytest.raises(ConfigError, match=r"actors.rollers.cpus is 2.*as actors.samplers.cpus"):
        load_config("tiny", wanted)


def test_a_cluster_too_small_is_refused_with_what_is_short() -> None:
    config = load_config(
        "quickstart", ["actors.layout=separate", "actors.rollers.gpus=0.5", "actors.samplers.resources={fast_disk: 2}"]
    )
    with pytest.raises(ConfigError) as caught:
        check_room(workers(config), [node(CPU=2.0)])
    said = str(caught.value)
    assert "\n  GPU: 1 needed, 0 in the cluster" in said
    assert "\n  CPU: 10 needed, 2 in the cluster" in said
    assert "\n  fast_disk: 4 needed, 0 in the cluster" in said
    assert "\n  2 x roller: 1 CPU, 0.5 GPU" in said
    assert "roller-0: 1 CPU, 0.5 GPU needed on one node, the most on one is 2 CPU, 0 GPU" in said


def test_a_process_that_fits_no_single_node_is_refused_however_many_nodes_there_are() -> None:
    nodes = [node(f"n{i}", CPU=4.0, GPU=1.0) for i in range(8)]
    with pytest.raises(ConfigError, match="sampler-0: 1 CPU, 2 GPU needed on one node, the most on one is 4 CPU, 1 G"):
        check_room([process("sampler-0", gpus=2)], nodes)


def test_labels_that_no_node_has_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="zone=b needed on one node, the most on one is nothing: no node has these"):
        check_room([process("sampler-0", zone="b")], [node(labels={"zone": "a"}, CPU=4.0)])
    check_room([process("sampler-0", zone="a")], [node(labels={"zone": "a"}, CPU=4.0)])


def test_a_cluster_with_room_is_accepted() -> None:
    check_room(workers(load_config("quickstart")), [node(CPU=2.0)])


@pytest.mark.parametrize(
    ("shares", "num_gpus", "left"),
    [
        ([0.5, 0.5, 0.5], 2, 0),
        ([0.6, 0.6, 0.6], 2, 1),  # together 1.8, but no two fit one GPU
        ([0.2, 0.4, 0.4, 1, 1], 3, 0),
        ([2, 1], 3, 0),
        ([2, 2], 3, 1),
    ],
)
def test_shares_of_a_gpu_come_from_one_gpu(shares: list[float], num_gpus: int, left: int) -> None:
    specs = [process(f"p-{i}", cpus=0, gpus=share) for i, share in enumerate(shares)]
    assert len(unplaced(specs, [node(CPU=1.0, GPU=float(num_gpus))])) == left


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("actors.rollers.gpus=1.5", "above 1 only whole GPUs"),
        ("actors.rollers.cpus=-1", "must be 0 or more"),
        ("actors.rollers.resources={gpu: 1}", "is no custom resource"),
        ("actors.rollers.resources={disk: 0}", "must be above 0"),
        ("actors.rollers.labels={zone: a}", "all roles name the same labels"),
        ("actors.rollers.labels={zone: '!a'}", "must be a plain value"),
    ],
)
def test_impossible_shares_are_refused_before_anything_starts(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config("quickstart", [override])


PLACED = """
import sys
import ray
from ray.cluster_utils import Cluster
from actors.worker import RoleSpec, WorkerSpec
from cluster.placement import reserved
from itercomp_rl.errors import ConfigError

class Where:
    def node(self):
        return ray.get_runtime_context().get_node_id()

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=2, labels={"zone": "a"}, resources={"fast_disk": 1})
cluster.add_node(num_cpus=2, labels={"zone": "b"})
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()
zones = {node["NodeID"]: node["Labels"].get("zone") for node in ray.nodes()}
def spec(label, cpus=0.5, resources={}, **labels):
    return WorkerSpec(label=label, roles=(), cpus=cpus, gpus=0, resources=resources, labels=labels)
specs = [spec("x-0", zone="b"), spec("x-1", zone="b"), spec("y-0", resources={"fast_disk": 1})]
specs.append(spec("z-0", cpus=0, zone="a"))
with reserved(specs, 20) as options:
    actors = {s.label: ray.remote(Where).options(**options[s.label]).remote() for s in specs}
    print({label: zones[ray.get(actor.node.remote())] for label, actor in actors.items()})
    try:
        with reserved([spec("w-0", cpus=2, zone="b")], 2):
            pass
    except ConfigError as error:
        print(error)
with reserved([spec("w-0", cpus=2, zone="b")], 20):
    print("free again")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_processes_get_the_nodes_that_their_labels_and_resources_name_or_none() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as short:  # sockets lie below it
        found = subprocess.run(
            [sys.executable, "-c", PLACED],
            capture_output=True,
            text=True,
            timeout=290,
            cwd=ROOT,
            env=environment | {"RAY_TMPDIR": short},
            check=False,
        )
    assert found.returncode == 0, found.stderr[-3000:]
    assert "{'x-0': 'b', 'x-1': 'b', 'y-0': 'a', 'z-0': 'a'}" in found.stdout
    assert "the cluster had no room for actors.* within actors.start_timeout_s (2 s); free just now" in found.stdout
    assert "1 x w: 2 CPU, zone=b" in found.stdout
    assert "free again" in found.stdout
