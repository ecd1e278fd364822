"""Run folders: where they lie, who may drive them, and what a run in parts has cost."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.costs import RunCosts
from cluster.local_paths import settled
from cluster.run_folder import claimed, load_run, prepare_folder
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.store.store import open_store


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


def test_a_run_of_a_relative_model_means_the_same_one_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here/mymodel", "there"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    typed = load_config("tiny", ["policy.model=mymodel", "store.url=mystore"])
    folder = prepare_folder(settled(typed), resume=False)
    open_store(settled(typed).store_url, create=True, durable=False)
    prepare_folder(settled(typed), resume=True)
    monkeypatch.chdir(tmp_path / "there")
    config, store = load_run(folder)
    assert config.policy.model == str(tmp_path / "here" / "mymodel")
    assert store.url == (tmp_path / "here" / "mystore").as_uri()
    prepare_folder(settled(load_config(folder / "config.yaml")), resume=True)


def test_a_run_whose_folder_has_relative_paths_is_continued_from_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mymodel").mkdir()
    monkeypatch.chdir(tmp_path)
    typed = load_config("tiny", ["policy.model=mymodel", "judge.reward_models.spatial=~/none"])
    prepare_folder(typed, resume=False)  # as earlier versions wrote it
    assert "mymodel" in (prepare_folder(settled(typed), resume=True) / "config.yaml").read_text()
