"""A disk that fills in the middle of a run: it ends and says so; once there is space it goes on to the same outcome."""

import subprocess
from pathlib import Path

import pytest

from tests.parts.outcomes import assert_same
from tests.parts.real_runs import finish, outcome, start
from tests.parts.small_disk import disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_run_goes_on_once_a_full_disk_has_space(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=32m") as place:
        url = f"store.url={(place / 'store').as_uri()}"
        last = finish(start(tmp_path, url), code=4).strip().splitlines()[-1]
        assert "the disk is full: free space there" in last
        assert list((place / "store/versions/reward-spatial").glob("*.json")), "it was to fill while the policy learned"
        subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)
        finish(start(tmp_path, url, "--resume"))
        finish(start(tmp_path / "undisturbed"))
        assert_same(outcome(tmp_path / "tiny"), outcome(tmp_path / "undisturbed" / "tiny"))
