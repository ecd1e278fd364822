"""Every config of the real models runs to its end with no file of the user's, on tiny random checkpoints.

The classes are the config's own: pipelines, T2I-CompBench's models as judges, a BLIP as the trunk of the rewards.
"""

import json
from pathlib import Path

import pytest

from cluster.launch import CheckedRun, check, leave
from itercomp_rl.config.load import load_config
from itercomp_rl.evaluation.overlap import overlap_of
from itercomp_rl.store.store import open_store
from tests.parts.one_process import OneProcessRun
from tests.parts.tiny_real import tiny_settings

REAL = ("itercomp_sdxl", "sdxl_64gpu", "sdxl_lora_1gpu", "sd15", "sd35_medium", "flux_lora")
ASPECTS = {"attribute", "spatial", "non_spatial"}


def check_results(folder: Path) -> None:
    """All aspects were ranked, learned and graded, on held-out prompts, by judges that share nothing."""
    tree = json.loads((folder / "results.json").read_text())
    assert "self_grading" not in tree
    assert set(tree["aspects"]) == ASPECTS
    for found in tree["aspects"].values():
        assert [cell["n"] >= 2 for cell in found["rounds"]] == [True, True]
    assert tree["held_out_prompts"]["trained_on"] == 0
    assert tree["config"]["prompts"]["train_file"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_config_runs_the_whole_loop(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # One process has no group of ranks to shard over, and no GPU to share.
    engine = ["policy.engine.kind=plain", "policy.engine.zero_stage=0"]
    checked: CheckedRun = check(load_config(name, [*tiny_settings(name, tmp_path), *engine]), None)
    assert "tokenizer, reads 12 tokens" in caplog.text
    assert overlap_of(checked.plan).num_trained_on == 0
    store = open_store(checked.config.store_url, create=True, durable=False)
    OneProcessRun(checked.config, store).go()
    leave(checked, store, {"wall_s": 1.0, "peak_rss_mb": 1.0, "phases": []})
    check_results(checked.config.run_folder)
