"""The store gone for a minute in the middle of a run: everyone waits, and the outcome is the undisturbed one."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.end_to_end.test_kills import MOMENTS, assert_same, finish, outcome, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen]:
    """moto's S3 as a process of its own with one bucket, which the environment points to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {"ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "not-a-secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(600):
            try:
                with urlopen(Request(f"{endpoint}/bucket", method="PUT")):
                    break
            except URLError:
                time.sleep(0.1)
        else:
            raise AssertionError("moto did not come up")
        yield server
        server.kill()


def test_a_run_outlasts_a_minute_without_its_store(s3: subprocess.Popen, tmp_path: Path) -> None:
    finish(start(tmp_path / "undisturbed"))
    process = start(tmp_path, "store.url=s3://bucket/run")
    wait_for(MOMENTS["policy"], tmp_path / "tiny", process)
    s3.send_signal(signal.SIGSTOP)
    time.sleep(60)
    assert process.poll() is None, "the run did not wait for its store"
    s3.send_signal(signal.SIGCONT)
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), outcome(tmp_path / "undisturbed" / "tiny"))
