"""Run folders: where they lie, who may drive them, and what a run in parts has cost."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.costs import RunCosts
from cluster.run_folder import claimed, settled
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@pytest.mark.parametrize(
    ("job", "start"),
    [
        (None, "here"),
        ("{}", "here"),
        ('{"runtime_env": {"working_dir": "gcs://_ray_pkg_0a1b.zip"}}', "home"),
    ],
)
def test_a_relative_folder_lies_where_it_stays(
    job: str | None, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(JOB, raising=False)
    if job is not None:
        monkeypatch.setenv(JOB, job)
    assert settled(load_config("tiny")).run_folder == tmp_path / start / "runs" / "tiny"
    kept = settled(load_config("tiny", [f"run.dir={tmp_path / 'own'}"]))
    assert kept.run_folder == tmp_path / "own" / "tiny"


def test_a_second_driver_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    hold = f"""
import time
from pathlib import Path
from cluster.run_folder import claimed
with claimed(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is driving the run"), claimed(tmp_path):
            pass
    finally:
        first.kill()
        first.communicate()
    with claimed(tmp_path):
        pass


def test_a_part_that_was_killed_counts(tmp_path: Path) -> None:
    killed = {"wall_s": 100.0, "peak_rss_mb": 10**6, "phases": [{"round": 0, "phase": "gallery", "seconds": 90.0}]}
    (tmp_path / "costs.json").write_text(json.dumps(killed))
    own = [{"round": 0, "phase": "policy", "seconds": 5.0}]
    with RunCosts(tmp_path, time.monotonic() - 50.0) as costs:
        costs.follow(own)
    assert costs.facts()["wall_s"] == pytest.approx(150.0, abs=5.0)
    assert costs.facts()["peak_rss_mb"] == 10**6
    assert [phase["phase"] for phase in costs.facts()["phases"]] == ["gallery", "policy"]
    assert json.loads((tmp_path / "costs.json").read_text())["phases"] == costs.facts()["phases"]
