"""A run begun on a cluster that has no room yet: Ray's own autoscaler adds the node, and idle processes draw or roll.

The node is a real raylet of this machine, started by Ray's fake provider.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.run_folder import load_run
from tests.parts.outcomes import assert_same
from tests.parts.real_runs import finish, outcome, start

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(900)]

NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # Ray's fake provider gives its nodes none
NOTHING: dict[str, list[str]] = {
    name: []
    for name in (
        *("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands"),
        *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
        *("rsync_exclude", "rsync_filter"),
    )
}


def autoscaling(address: str) -> dict[str, object]:
    """What a cluster file says: a head that holds nothing, and one node of six CPUs when it is asked for."""
    return {
        "cluster_name": "test",
        "max_workers": 1,
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 6}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
        "head_node_type": "head",
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "auth": {},
        **NOTHING,
    }


@pytest.fixture
def growing_cluster(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "cluster.json").write_text(json.dumps(autoscaling(address)))
    folder = tempfile.mkdtemp(prefix="r")  # short: sockets lie below it
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {**NO_TOKEN, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--port={address.rpartition(':')[2]}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    command += [f"--temp-dir={folder}", f"--autoscaling-config={tmp_path / 'cluster.json'}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        yield address
        mine = [
            process for process in psutil.process_iter(["cmdline"]) if folder in " ".join(process.info["cmdline"] or [])
        ]
        for process in {*psutil.Process(head.pid).children(recursive=True), *mine, psutil.Process(head.pid)}:
            if process.is_running():
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_waits_for_the_node_that_the_autoscaler_adds_and_ends_as_any_other(
    growing_cluster: str, tmp_path: Path
) -> None:
    settings = ["actors.layout=separate"]
    settings += [f"actors.{role}.count=1" for role in ("samplers", "rollers", "judges", "reward_learners")]
    finish(start(tmp_path, "--address", growing_cluster, *settings, "actors.autoscale=true", **NO_TOKEN))
    # Of the same layout, on the node that is there now: rollers of layout shared round as their learner does.
    finish(start(tmp_path / "undisturbed", "--address", growing_cluster, *settings, **NO_TOKEN))
    assert_same(outcome(tmp_path / "tiny"), outcome(tmp_path / "undisturbed" / "tiny"))
    log = (load_run(tmp_path / "tiny")[0].run_folder / "log.jsonl").read_text()
    assert "waiting up to 180 s (actors.start_timeout_s) for nodes" in log
    assert "CPU: 6 needed, 0 in the cluster" in log
