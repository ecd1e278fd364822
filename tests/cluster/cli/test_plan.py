"""`itercomp plan`: what it prints, and what it refuses."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.main import main
from itercomp_rl.observability.work_times import FILE, WorkTimes
from tests.parts.small_run import small_run

SEPARATE = ("actors.layout=separate", "policy.batch=16", "policy.max_policy_lag=2")


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


@pytest.fixture
def times(tmp_path: Path) -> str:
    file = tmp_path / "times.yaml"
    file.write_text("draw_image_s: 0.1\nroll_s: 60\nlearn_rollout_s: 1\n")
    return str(file)


def test_without_times_it_says_who_runs_where_how_much_is_to_be_done_and_the_memory() -> None:
    found = plan("quickstart")
    assert found.exit_code == 0, found.output
    assert "shared" in found.output
    row = next(line for line in found.output.splitlines() if line.startswith("│ 0 "))
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == ["0", "2000", "2000", "160 of 8"]
    assert "GiB     process / role and what it holds" in found.output
    assert "--times FILE or --from RUN" in found.output


def test_with_times_it_names_the_best_ratio_and_how_much_faster_it_is(times: str) -> None:
    found = plan("tiny", *SEPARATE, "--cluster", "2x6", "--times", times)
    assert found.exit_code == 0, found.output
    assert "best ratio on 12 CPUs" in found.output
    assert "times as fast: " in found.output
    assert "actors.rollers.count=" in found.output.rpartition("times as fast")[2]


def test_a_run_that_was_made_gives_the_times(tmp_path: Path) -> None:
    config, _ = small_run(tmp_path)
    work = WorkTimes({"sampler.draw base": {"calls": 1, "items": 30, "seconds": 60.0}})
    work.join({"policy_learner.update": {"calls": 1, "items": 2, "seconds": 8.0}})
    work.save(config.run_folder / FILE)
    found = plan("tiny", "--from", str(config.run_folder))
    assert found.exit_code == 0, found.output
    assert "as configured" in found.output
    assert "there is no ratio to choose" in found.output


def test_counts_that_do_not_fit_the_cluster_are_refused_with_what_is_short() -> None:
    found = plan("tiny", *SEPARATE, "--cluster", "1x4")
    assert found.exit_code == 2
    assert "CPU: 9 needed, 4 in the cluster" in found.output


@pytest.mark.parametrize("size", ["8", "0x4", "8x8x8", "axb"])
def test_a_size_of_another_form_is_refused(size: str) -> None:
    found = plan("tiny", "--cluster", size)
    assert found.exit_code == 2
    assert "must be nodes x devices of each, such as 8x8" in found.output
