"""`itercomp plan`: what it prints, and what it refuses."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cluster.main import main
from itercomp_rl.config.load import load_config
from itercomp_rl.observability.work_times import FILE, WorkTimes
from itercomp_rl.plan import Plan
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
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == ["0", "6000", "6000", "80 of 8"]
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


def test_members_whose_images_are_made_elsewhere_are_counted_and_take_no_memory(tmp_path: Path) -> None:
    prompt = Plan(config=load_config("tiny")).gallery_prompts[0]
    Image.new("RGB", (512, 512)).save(tmp_path / f"{prompt.text}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "another prompt.png")  # decides nothing
    external = [
        f"gallery.members.closed={{system: folder, model: {tmp_path}}}",
        "gallery.members.served={system: endpoint, endpoint: hall, model: big, size_px: 1024}",
        "gallery.endpoints.hall={url: 'http://127.0.0.1:1/v1'}",  # nobody is there, and nobody is asked
    ]
    found, without = plan("tiny", *external), plan("tiny")
    assert found.exit_code == 0, found.output

    def cells(result: Result) -> list[str]:
        row = next(line for line in result.output.splitlines() if line.startswith("│ 0 "))
        return [cell.strip() for cell in row.strip("│").split("│")]

    one, other = cells(found), cells(without)
    assert int(one[1]) - int(other[1]) == 2 * 60
    held_out = (int(one[4]) - int(other[4])) // 2
    # 60 gallery images and the held-out ones of each, 0.75 MiB of 512 x 512 pixels and 3 MiB of 1024 x 1024.
    assert int(one[5]) - int(other[5]) == pytest.approx((60 + held_out) * 3.75, abs=1)
    assert [line for line in found.output.splitlines() if "sampler" in line and ":" in line] == [
        line for line in without.output.splitlines() if "sampler" in line and ":" in line
    ]
