"""Progress: lines in a file, a bar at a terminal that leaves nothing but the phase's line."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from itercomp_rl.observability import metrics
from itercomp_rl.observability.metrics import MetricsLog
from itercomp_rl.observability.trackers import TrackedRun, Trackers


def run_phase(folder: Path, console: Console | None) -> None:
    trackers = Trackers([], TrackedRun(project="tests", name="one", folder=folder, settings={}))
    log = MetricsLog(folder, trackers, console=console)
    with log.phase("gallery", 3, 1) as advance:
        for value in (0.5, 0.25, 0.125):
            advance(1, {"reward/loss": value})
    log.close()


def test_in_a_file_a_phase_is_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "LOG_EVERY_S", -1.0)
    with caplog.at_level(logging.INFO, "itercomp_rl"):
        run_phase(tmp_path, None)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("round 1 gallery: 1 of 3")
    assert lines[-1].startswith("round 1 gallery: done in")
    assert "\x1b" not in "".join(lines)


def test_at_a_terminal_a_bar_counts_and_no_line_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "LOG_EVERY_S", -1.0)
    screen = io.StringIO()
    with caplog.at_level(logging.INFO, "itercomp_rl"):
        run_phase(tmp_path, Console(file=screen, force_terminal=True, width=100))
    assert [record.getMessage() for record in caplog.records if " of 3" in record.getMessage()] == []
    assert "round 1 gallery" in screen.getvalue()
