"""The manifests: fields that their readers know, ratios that fit, commands that exist, and nothing large on its way."""

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray._private.runtime_env.packaging import create_package

from cluster.main import main
from cluster.placement import workers
from itercomp_rl.config.load import load_config
from itercomp_rl.store.store import open_store
from tests.parts.small_run import small_run

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "cluster" / "manifests"

# The fields of KubeRay's ray.io/v1 API (1.5), by the object they stand in.
GROUP = {"rayStartParams", "template", "resources", "labels"}
KNOWN = {
    "RayJob": {
        "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
        "runtimeEnvYAML", "submissionMode", "submitterPodTemplate", "activeDeadlineSeconds", "entrypointNumCpus",
    },
    "RayCluster": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs", "gcsFaultToleranceOptions", "headServiceAnnotations", "suspend", "managedBy",
    },
    "autoscalerOptions": {
        "version", "upscalingMode", "idleTimeoutSeconds", "resources", "image", "imagePullPolicy", "env", "envFrom",
        "securityContext", "volumeMounts",
    },
    "authOptions": {"mode"},
    "head": {*GROUP, "serviceType", "headService", "enableIngress"},
    "worker": {
        *GROUP, "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "numOfHosts", "suspend",
        "scaleStrategy",
    },
    "pod": {"containers", "initContainers", "volumes", "tolerations", "nodeSelector", "affinity", "serviceAccountName"},
    "container": {
        "name", "image", "ports", "env", "envFrom", "resources", "volumeMounts", "lifecycle", "securityContext",
    },
}  # fmt: skip
SKY = {
    "name",
    "num_nodes",
    "workdir",
    "resources",
    "file_mounts",
    "service",
    "setup",
    "run",
    "envs",
    "secrets",
    "config",
}


def read(name: str) -> Any:
    return yaml.safe_load((MANIFESTS / name).read_text())


def known(tree: dict[str, Any], what: str) -> None:
    assert set(tree) <= KNOWN[what], f"{what} has no field {set(tree) - KNOWN[what]}"


def check_pod(spec: dict[str, Any]) -> None:
    known(spec, "pod")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        known(container, "container")
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        amounts = container["resources"]
        assert amounts["limits"] == amounts["requests"]  # Ray counts limits, the scheduler requests


def check_cluster(spec: dict[str, Any]) -> None:
    known(spec, "RayCluster")
    known(spec["authOptions"], "authOptions")
    known(spec.get("autoscalerOptions", {}), "autoscalerOptions")
    known(spec["headGroupSpec"], "head")
    check_pod(spec["headGroupSpec"]["template"]["spec"])
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"  # the driver's node has none
    for group in spec["workerGroupSpecs"]:
        known(group, "worker")
        check_pod(group["template"]["spec"])
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def gpus_of(group: dict[str, Any]) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])


def settings_in(command: str) -> list[str]:
    return [word for word in command.replace("\\\n", " ").split() if re.fullmatch(r"[a-z_.]+=[^'\"$]+", word)]


def test_the_ray_cluster_has_fields_kuberay_knows_and_scales_by_autoscaler_v2() -> None:
    tree = read("raycluster.yaml")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayCluster")
    check_cluster(tree["spec"])
    assert tree["spec"]["enableInTreeAutoscaling"] is True
    assert tree["spec"]["autoscalerOptions"]["version"] == "v2"
    groups = tree["spec"]["workerGroupSpecs"]
    assert all(gpus_of(group) >= 1 for group in groups)
    assert any(group["minReplicas"] < group["maxReplicas"] for group in groups)


def test_the_ray_job_has_fields_kuberay_knows_and_its_roles_fit_its_gpus() -> None:
    tree = read("rayjob.yaml")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    known(tree["spec"], "RayJob")
    check_cluster(tree["spec"]["rayClusterSpec"])
    entrypoint = tree["spec"]["entrypoint"]
    assert entrypoint.startswith("itercomp run ") and "--resume" in entrypoint  # a retry must go on, not refuse
    specs = workers(load_config("quickstart", settings_in(entrypoint)))
    groups = tree["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert sum(spec.gpus for spec in specs) == sum(gpus_of(group) * group["replicas"] for group in groups)


def test_the_ray_version_is_the_one_that_is_tested() -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints-cpu.txt").read_text(), flags=re.MULTILINE)
    assert read("raycluster.yaml")["spec"]["rayVersion"] == pinned
    assert read("rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_the_ray_autoscaler_file_satisfies_rays_own_schema() -> None:
    tree = read("ray_autoscaler.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(tree, schema)
    assert tree["head_node_type"] in tree["available_node_types"]
    kinds = tree["available_node_types"].values()
    assert sum(kind.get("max_workers", 0) for kind in kinds) <= tree["max_workers"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**tree, "no_such_field": 1}, schema)


def test_the_sky_file_has_fields_skypilot_knows_and_its_roles_fit_its_gpus() -> None:
    tree = read("sky.yaml")
    assert set(tree) <= SKY
    specs = workers(load_config("quickstart", settings_in(tree["run"])))
    (per_node,) = set(tree["resources"]["accelerators"].values())
    assert sum(spec.gpus for spec in specs) <= tree["num_nodes"] * per_node


@pytest.mark.parametrize("script", ["slurm.sh", "sky.yaml"])
def test_scripts_are_sound_shell(script: str) -> None:
    text = (MANIFESTS / script).read_text()
    for part in [text] if script.endswith(".sh") else [yaml.safe_load(text)["setup"], yaml.safe_load(text)["run"]]:
        subprocess.run(["bash", "-n"], input=part, text=True, check=True)


def test_the_slurm_script_starts_one_ray_over_all_nodes(tmp_path: Path) -> None:
    """The script itself, with stand-ins for the programs of Slurm and Ray that say how they were called."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stand_in = '#!/bin/bash\necho "$(basename "$0") $*"\n'
    programs = {"srun": stand_in, "ray": "#!/bin/bash\n", "scontrol": "#!/bin/bash\necho node1\necho node2\n"}
    for name, text in programs.items():
        path = tmp_path / ".venv" / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{tmp_path}/.venv/bin:$PATH"\n')
    found = subprocess.run(
        ["bash", str(MANIFESTS / "slurm.sh"), "configs/tiny.yaml", "run.name=a b"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == (
        "srun --kill-on-bad-exit=1 ray symmetric-run --address node1:20007 --min-nodes 2 --include-dashboard=false -- "
        "itercomp run configs/tiny.yaml run.name=a b --resume --address node1:20007"
    )


def test_the_image_holds_every_package_and_no_run() -> None:
    lines = (MANIFESTS / "Dockerfile").read_text().splitlines()
    copied = {line.split()[-1] for line in lines if line.startswith("COPY")}
    assert {"actors", "cluster", "configs", "itercomp_rl", "learners"} <= copied
    assert {"runs", ".venv", ".git"} <= set((ROOT / ".dockerignore").read_text().split())


def test_every_manifest_is_documented_with_its_command() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    for path in MANIFESTS.iterdir():
        assert f"manifests/{path.name}" in text, path.name
    options = {option for command in main.commands.values() for param in command.params for option in param.opts}
    for line in re.findall(r"^    itercomp (.+)$", text, flags=re.MULTILINE):
        command = line.split()[0]
        assert command in main.commands
        assert command == "store" or set(re.findall(r" (--[a-z-]+)", line)) <= options, line


def test_runs_and_stores_never_travel_with_a_job(tmp_path: Path) -> None:
    """Ray's own packaging of a working folder that holds a run and a store under names nobody foresaw."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for package in ("actors", "cluster", "configs", "itercomp_rl", "learners"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / ".rayignore", checkout)
    config, _ = small_run(checkout / "experiments")
    open_store(str(checkout / "elsewhere"), create=True).put("k", "a", {}, {"x": 1})
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "large").write_bytes(b"x")
    create_package(str(checkout), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = package.namelist()
    assert any(name.endswith("itercomp_rl/store/store.py") for name in names)
    assert any(name.endswith("configs/base.yaml") for name in names)
    for name in names:
        assert not re.search(r"experiments/small/.|elsewhere/.|\.venv/.", name), name
    assert (config.run_folder / "store" / "store.json").exists()
