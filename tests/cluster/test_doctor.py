"""The doctor: what is missing comes with a way to get it, and looking leaves nothing behind."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster import doctor
from cluster.main import main


def test_every_finding_that_is_not_ok_says_what_to_do_and_nothing_is_left_behind(tmp_path: Path) -> None:
    findings = list(doctor.examine(tmp_path / "runs" / "deep", None))
    assert {"python", "packages", "cpu", "gpu", "attention", "ray", "ray authentication", "store", "network ports"} <= {
        finding.part for finding in findings
    }
    assert [finding for finding in findings if finding.state != "ok" and not finding.way_out] == []
    assert [finding.found for finding in findings if finding.state == "missing"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_container_that_may_have_little_memory_is_told(
    limit: str, used: str, stat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itercomp_rl.forecast.machine.CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    for name, text in {
        limit: f"{2**31}\n",
        used: f"{3 * 2**29}\n",
        stat: f"anon 17\ninactive_file {2**28}\ntotal_inactive_file {2**28}\n",
    }.items():
        (tmp_path / name).write_text(text)
    cpu = next(finding for finding in doctor._devices() if finding.part == "cpu")
    assert cpu.state == "look"
    assert "2.0 GiB memory, 0.8 GiB available" in cpu.found


def test_a_store_that_cannot_be_used_is_missing_and_ends_in_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("no folder")
    found = CliRunner().invoke(main, ["doctor", "--json", "--run-dir", str(tmp_path), "--store", str(file)])
    assert found.exit_code == 1
    (store,) = [finding for finding in json.loads(found.stdout) if finding["part"] == "store"]
    assert store["state"] == "missing"
    assert "a file is there" in store["found"]


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(doctor, "RAY_PORTS", {port: "a test"})
        (finding,) = doctor._network()
    assert finding.state == "look"
    assert f"{port} (a test)" in finding.found


def test_a_home_folder_that_is_not_there_and_a_long_tmpdir_are_things_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "scratch_of_the_job_of_today"
    long.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("TMPDIR", str(long))
    home, temporary = [*doctor._home(), *doctor._temporary()]
    assert (home.state, temporary.state) == ("look", "look")
    assert "set HOME" in home.way_out
    assert str(long) in temporary.found and "at most" in temporary.way_out
    assert list(long.iterdir()) == []
