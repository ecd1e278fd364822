"""Real processes of a Ray run killed while it lasts: the outcome is the undisturbed one.

The run is sequential (max_policy_lag 0), so its images and weights must come out bit for bit the same. One run is
disturbed at every moment, as starting one costs more than what it does. Kills in every part of the work are in
test_fault_matrix.py.
"""

import contextlib
import os
import random
import signal
from pathlib import Path

import psutil
import pytest

from tests.parts.outcomes import assert_same
from tests.parts.real_runs import MOMENTS, finish, outcome, start, wait_for, workers_of

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder))
    return outcome(folder / "tiny")


@pytest.mark.slow
def test_a_driver_killed_at_every_moment_resumes_to_the_same_outcome(undisturbed: dict, tmp_path: Path) -> None:
    process = start(tmp_path)
    for moment in MOMENTS.values():
        wait_for(moment, tmp_path / "tiny", process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        process = start(tmp_path, "--resume")
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


@pytest.mark.slow
def test_a_worker_process_killed_at_every_moment_is_replaced_and_the_run_finishes(
    undisturbed: dict, tmp_path: Path
) -> None:
    rng, process = random.Random(0), start(tmp_path)
    for moment in MOMENTS.values():
        wait_for(moment, tmp_path / "tiny", process)
        workers = workers_of(psutil.Process(process.pid))
        assert workers, "no worker process was found"
        rng.choice(workers).kill()
    finish(process)
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


@pytest.mark.parametrize(
    "moment", [pytest.param("rewards", marks=pytest.mark.exhaustive), pytest.param("policy", marks=pytest.mark.slow)]
)
def test_sigterm_keeps_what_was_done_says_so_and_the_run_resumes(
    moment: str, undisturbed: dict, tmp_path: Path
) -> None:
    process = start(tmp_path)
    wait_for(MOMENTS[moment], tmp_path / "tiny", process)
    process.terminate()
    last = finish(process, code=8).strip().splitlines()[-1]
    assert last == (
        "error: stopped by SIGTERM; all that was under way is committed or in a checkpoint. Go on with --resume"
    )
    finish(start(tmp_path, "--resume"))
    assert_same(outcome(tmp_path / "tiny"), undisturbed)


@pytest.mark.slow
def test_a_run_listens_on_this_machine_alone_and_lets_no_second_driver_in(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(MOMENTS["policy"], tmp_path / "tiny", process)
    driver = psutil.Process(process.pid)
    driver.suspend()  # or it may end before the second one has looked
    addresses = set()
    for one in [driver, *driver.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # ended since it was listed
            found = one.net_connections("tcp")
            addresses |= {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}
    said = finish(start(tmp_path, "--resume"), code=2)
    assert "another process is driving the run" in said
    driver.resume()
    assert addresses, "Ray's own servers were to be seen"
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    finish(process)
