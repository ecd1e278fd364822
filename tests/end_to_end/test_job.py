"""`ray job submit` as the README has it, against a local head that asks for a token."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """The address for jobs, and the environment of who may submit them."""
    folder, port = tempfile.mkdtemp(prefix="r"), free_port()  # short: sockets lie below it
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"PATH": f"{BIN}:{environment['PATH']}", "RAY_AUTH_MODE": "token"}
    environment["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}"]
    command += [f"--dashboard-port={port}", "--include-dashboard=true", f"--temp-dir={folder}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # its default is fixed, and one Ray of a machine has it
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(600):
            try:
                with urlopen(f"http://127.0.0.1:{port}", timeout=5):
                    break
            except (URLError, TimeoutError):
                time.sleep(0.1)
        else:
            pytest.fail("the head did not come up")
        yield f"http://127.0.0.1:{port}", environment
        everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in everyone:
            with suppress(psutil.NoSuchProcess):  # a raylet takes its workers along
                one.kill()
    shutil.rmtree(folder, ignore_errors=True)


def submit(head: tuple[str, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    address, environment = head
    command = [
        BIN / "ray",
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
        "--",
        "python",
        "-m",
        "cluster.main",
    ]
    for _ in range(20):  # the dashboard answers before the node's agent, which takes the job, does
        found = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        if "No available agent" not in found.stdout + found.stderr:
            return found
        time.sleep(1)
    return pytest.fail("the head's agent did not come up")


def test_a_job_runs_the_whole_loop_and_says_where_its_results_are(
    head: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    found = submit(head, "run", "configs/tiny.yaml", f"run.dir={tmp_path}")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "succeeded" in found.stdout
    assert f"report:  {tmp_path}/tiny/report.html" in found.stdout
    assert (tmp_path / "tiny" / "results.json").exists()


def test_a_job_that_fails_says_why_and_so_does_its_exit_code(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    found = submit(head, "run", "configs/tiny.yaml", f"run.dir={tmp_path}", "policy.updates=-1")
    assert found.returncode != 0
    assert "error: policy.updates is -1: must be 1 or more" in found.stdout
    assert "exit code 2" in found.stdout


def test_without_the_token_nothing_is_submitted(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = head
    stranger = environment | {"RAY_AUTH_TOKEN": "0" * 32}
    found = submit((address, stranger), "run", "configs/tiny.yaml", f"run.dir={tmp_path}")
    assert found.returncode != 0
    assert "token" in (found.stdout + found.stderr).lower()
    assert not (tmp_path / "tiny").exists()
