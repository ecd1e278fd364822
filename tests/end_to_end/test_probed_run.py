"""A whole run with probes, for real: Ray processes, two DeepSpeed ranks; what is kept is what the judge preferred."""

import json
from pathlib import Path

import pytest

from cluster.run_folder import load_run
from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from tests.parts.real_runs import SETTINGS, itercomp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROBES = ("evaluation.probe_every=1", "evaluation.probe_images=12", "evaluation.keep=best", "policy.patience=2")


def test_a_probed_run_publishes_its_best_average_and_shows_reward_against_judge(tmp_path: Path) -> None:
    itercomp("run", "tiny", f"run.dir={tmp_path}", *SETTINGS, "policy.engine.lr=3e-3", *PROBES)
    folder = tmp_path / "tiny"
    tree = json.loads((folder / "results.json").read_text())
    config, store = load_run(folder)
    plan = Plan(config=config)
    assert [one["round"] for one in tree["probes"]] == [0, 1]
    for one in tree["probes"]:
        scores = {probe["update"]: probe["score"] for probe in one["probes"]}
        assert one["kept_update"] == max(scores, key=scores.__getitem__)
        attrs = weights.open_version(store, "policy", one["round"]).attrs
        assert attrs["kept_update"] == one["kept_update"]
        assert attrs["updates"] == max(scores) <= plan.config.policy.updates
        after = len([update for update in scores if update > one["kept_update"]])
        assert after <= 3, "two probes without a new best, and the one that was begun as that was known"
        assert all(set(probe["scores"]) == set(config.prompts.aspects) for probe in one["probes"])
        assert all({"diversity", "saturation", "reward_spatial"} <= set(probe) for probe in one["probes"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["round"], line["value"]) for line in lines if line["name"] == "probe/update"]
    assert logged == [(one["round"], probe["update"]) for one in tree["probes"] for probe in one["probes"]]
    report = (folder / "report.html").read_text()
    assert "What its probes found" in report
    assert "kept, sha256" in report
    assert "probe/score" in itercomp("status", str(folder))
    # The averages of a published round are deleted while the run goes on, or by `store gc`.
    itercomp("store", "gc", str(folder))
    assert weights.versions(store, "live-average-r000") == weights.versions(store, "live-average-r001") == []
