"""Several processes on one disk, some of them killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from itercomp_rl.store.retention import verify
from itercomp_rl.store.store import open_store

PRELUDE = """
import sys, time
from dataclasses import replace
import numpy as np
from itercomp_rl.store.store import open_store
store = open_store(sys.argv[1])
me = int(sys.argv[2])
images = np.full((6, 16, 16, 3), me, np.uint8)
print("ready", flush=True)
sys.stdin.readline()
"""
DISTINCT = """
for number in range(10):
    store.put("images", f"r1-{me}-{number}", {"images": images, "seeds": np.arange(6)}, {"writer": me})
"""
SAME = """
import json
print(json.dumps([store.put("images", f"r1-{number}", {"images": images}, {"writer": me}).data for number in range(5)]))
"""
HANG_BEFORE_THE_MARKER = """
def clock():  # asked as the attempt begins, and when its data are written
    if store.backend.sizes("segments"):
        print("written", flush=True)
        time.sleep(600)
    return time.time()
replace(store, clock=clock).put("images", "r1", {"images": images}, {})
"""
WRITE_FOR_EVER = """
number = 0
while True:
    store.put("images", f"r1-{me}-{number}", {"images": images}, {"writer": me})
    print(number, flush=True)
    number += 1
"""


def start(code: str, url: str, number: int) -> "subprocess.Popen[str]":
    """A writer that waits for a line on its input once it is ready, so that all begin together."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PRELUDE + code, url, str(number)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def run_together(code: str, url: str) -> list[str]:
    """What each of four writers printed after it was ready."""
    writers = [start(code, url, number) for number in range(4)]
    assert [line_of(writer) for writer in writers] == ["ready"] * 4
    for writer in writers:
        begin(writer)
    printed = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    return printed


def test_four_writers_of_distinct_ids_lose_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"), create=True)
    run_together(DISTINCT, store.url)
    assert store.ids("images") == sorted(f"r1-{me}-{number}" for me in range(4) for number in range(10))
    for id_ in store.ids("images"):
        record = store.get("images", id_)
        assert (record.arrays["images"] == record.attrs["writer"]).all()
    assert verify(store) == []


def test_of_four_writers_of_one_id_exactly_one_wins_and_all_agree(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"), create=True)
    answers = [json.loads(printed) for printed in run_together(SAME, store.url)]
    assert all(answer == answers[0] for answer in answers)
    assert [commit.data for commit in store.commits("images")] == answers[0]
    for id_ in store.ids("images"):
        record = store.get("images", id_)
        assert (record.arrays["images"] == record.attrs["writer"]).all()
    assert {problem.kind for problem in verify(store)} <= {"orphan"}


def test_a_writer_killed_before_its_marker_leaves_nothing_visible(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"), create=True)
    writer = start(HANG_BEFORE_THE_MARKER, store.url, 1)
    assert line_of(writer) == "ready"
    begin(writer)
    assert line_of(writer) == "written"
    kill(writer)
    assert (store.ids("images"), store.has("images", "r1")) == ([], False)
    assert [problem.kind for problem in verify(store)] == ["orphan"]
    store.put("images", "r1", {"images": np.ones((6, 16, 16, 3), np.uint8)}, {})  # the retry
    assert store.get("images", "r1").arrays["images"].all()


def test_everything_a_killed_writer_published_is_whole(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"), create=True)
    writers = [start(WRITE_FOR_EVER, store.url, number) for number in range(2)]
    assert [line_of(writer) for writer in writers] == ["ready"] * 2
    for writer in writers:
        begin(writer)
    done = [[line_of(writer) for _ in range(count)][-1] for writer, count in zip(writers, (2, 5), strict=True)]
    for writer in writers:
        kill(writer)  # wherever they are in their next record
    assert done == ["1", "4"]
    assert set(store.ids("images")) >= {"r1-0-0", "r1-0-1", *(f"r1-1-{number}" for number in range(5))}
    assert {problem.kind for problem in verify(store)} <= {"orphan"}
    for id_ in store.ids("images"):
        record = store.get("images", id_)
        assert (record.arrays["images"] == record.attrs["writer"]).all()
