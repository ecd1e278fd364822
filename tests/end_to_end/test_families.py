"""Every policy family through the whole loop for real: Ray processes, ranks, the store; tiny random checkpoints."""

from pathlib import Path

import pytest
import torch

from cluster.run_folder import load_run
from itercomp_rl.store import weights
from tests.parts.covering import covering
from tests.parts.family_runs import ENGINES, MAKERS, check_run, run_family


@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("family", "mode", "engine"), covering([*MAKERS], ["full", "lora"], [*ENGINES]))
def test_every_family_runs_the_whole_loop(family: str, mode: str, engine: str, tmp_path: Path) -> None:
    check_run(run_family(tmp_path, family, mode, engine), mode)


@pytest.mark.exhaustive  # tests/learners/test_policy_ranks.py checks it without the rest of a run
@pytest.mark.timeout(3000)
def test_plain_and_zero_publish_the_same_adapter(tmp_path: Path) -> None:
    found = {}
    for engine in ENGINES:
        (tmp_path / engine).mkdir()
        _, store = load_run(str(run_family(tmp_path / engine, "sdxl", "lora", engine)))
        found[engine] = weights.open_version(store, "policy", 0).load()
    for engine in ("zero1", "zero3"):
        torch.testing.assert_close(found[engine], found["plain"], rtol=1e-3, atol=1e-5)
