"""The store kinds every contract test runs on: in memory, on a local disk, behind two S3 on loopback."""

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from itercomp_rl.store.store import Store, open_store
from tests.parts.small_s3 import SmallS3, small_s3

_BUCKETS = itertools.count()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallS3]:
    """Our own small S3, behind s3://bucket/run, to be told what to do wrong."""
    with small_s3(monkeypatch) as server:
        yield server


@pytest.fixture
def s3_url(s3: SmallS3) -> str:
    return "s3://bucket/run"


@pytest.fixture
def careless_s3_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One that lets a create-only write go over what is there."""
    with small_s3(monkeypatch, is_create_only_kept=False):
        yield "s3://bucket/run"


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    """moto's S3: written by others, it checks what ours only believes of the protocol."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def moto_url(moto_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket of it, with signed requests."""
    endpoint = f"http://127.0.0.1:{moto_port}"
    settings = {"ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "not-a-secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = f"bucket-{os.getpid()}-{next(_BUCKETS)}"
    with urlopen(Request(f"{endpoint}/{bucket}", method="PUT")) as answer:
        assert answer.status == 200
    return f"s3://{bucket}/run"


@pytest.fixture(params=["memory", "local", "s3", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param in ("s3", "moto"):
        return open_store(request.getfixturevalue(f"{request.param}_url"), create=True)
    return open_store("memory://" if request.param == "memory" else str(tmp_path / "store"), create=True)
