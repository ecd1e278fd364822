"""The store gone for a minute in the middle of a run: everyone waits, and the outcome is the undisturbed one."""

import time
from pathlib import Path

import pytest
from s3_server import s3_server

from tests.parts.outcomes import assert_same
from tests.parts.real_runs import MOMENTS, finish, outcome, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_run_outlasts_a_minute_without_its_store(tmp_path: Path) -> None:
    finish(start(tmp_path / "undisturbed"))
    with s3_server() as s3:
        process = start(tmp_path, "store.url=s3://bucket/run")
        wait_for(MOMENTS["policy"], tmp_path / "tiny", process)
        s3.go_away(60.0)
        time.sleep(60)
        assert process.poll() is None, "the run did not wait for its store"
        finish(process)
        assert_same(outcome(tmp_path / "tiny"), outcome(tmp_path / "undisturbed" / "tiny"))
