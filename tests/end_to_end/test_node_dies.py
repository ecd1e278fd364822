"""A raylet killed with all that its node holds, in a cluster of several: the run moves to what is left and finishes.

Raylets are real and on this machine (ray.cluster_utils); a node dies as by a power cut, its raylet killed by signal 9.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.parts.outcomes import assert_same
from tests.parts.real_runs import MOMENTS, finish, outcome, start, wait_for, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A head that holds nothing, and two nodes more than the two processes of the run need.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(4):
    cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    folder = tempfile.mkdtemp(prefix="r")  # short: sockets lie below it
    environment["RAY_TMPDIR"] = folder
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    family = psutil.Process(process.pid)
    with process:
        yield process.stdout.readline().strip(), family
        everyone = [*family.children(recursive=True), family]
        for other in everyone:
            if other.is_running():
                other.kill()
        psutil.wait_procs(everyone[:-1], timeout=30)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_node_that_dies_takes_nothing_with_it(cluster: tuple[str, psutil.Process], tmp_path: Path) -> None:
    finish(start(tmp_path / "undisturbed"))
    address, family = cluster
    process = start(tmp_path, "--address", address)
    rng = random.Random(0)
    for moment in ("rewards", "policy"):
        wait_for(MOMENTS[moment], tmp_path / "tiny", process)
        # Who starts late, or takes a dead one's place, is up only when the other has been at work for a while.
        wait_for(lambda _: len(workers_of(family)) == 2, tmp_path / "tiny", process)
        raylet = rng.choice(workers_of(family)).parent()
        assert raylet is not None and "raylet" in raylet.name()
        for one in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended with the one before
                one.kill()
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), outcome(tmp_path / "undisturbed" / "tiny"))
