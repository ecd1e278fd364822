"""A run without a gallery: reward models learn imported preferences, the policy learns from them, round after round.

The real loop, store, models and learners in one process.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cluster.checks import check_preferences
from itercomp_rl.config.load import config_from, to_tree
from itercomp_rl.errors import ConfigError
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.imported import take_in
from itercomp_rl.report.html import write_report
from itercomp_rl.report.results import write_results
from itercomp_rl.run.preference_files import Options
from itercomp_rl.run.preferences_import import import_preferences
from itercomp_rl.store import weights
from itercomp_rl.store.store import open_store
from tests.parts.image_server import world_picture
from tests.parts.one_process import OneProcessRun, small_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_imported_preferences_teach_without_a_gallery(tmp_path: Path) -> None:
    config = small_config(
        tmp_path,
        *(
            "policy.updates=1",
            "policy.pretraining_weight=0",
            "evaluation.denoising_images=0",
            "gallery.policy_joins=false",
        ),
        *("reward.updates=8", "reward.held_out=0.3"),
    )
    prompts = Plan(config=config).gallery_prompts
    rows = []
    for i, (prompt, other) in enumerate(zip(prompts, prompts[1:] + prompts[:1], strict=True)):
        for name, text in (("right", prompt.text), ("wrong", other.text)):
            Image.fromarray(world_picture(text, i)).save(tmp_path / f"{name}{i}.png")
        rows.append({"prompt": prompt.text, "winner": f"right{i}.png", "loser": f"wrong{i}.png"})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences([tmp_path / "pairs.jsonl"], tmp_path / "set", Options(aspects=("attribute", "spatial")))

    config = replace(
        config,
        gallery=replace(config.gallery, members={}),
        reward=replace(config.reward, preferences=[str(tmp_path / "set")]),
    )
    with pytest.raises(ConfigError, match="at least two must|must name at least one"):
        config_from(to_tree(replace(config, reward=replace(config.reward, preferences=[]))))
    with pytest.raises(ConfigError, match=r"policy\.pretraining_weight is 0\.3: learns from the gallery's images"):
        config_from(to_tree(replace(config, policy=replace(config.policy, pretraining_weight=0.3))))
    config = config_from(to_tree(config))
    check_preferences(config)
    store = open_store(config.store_url, create=True, durable=False)
    take_in(store, config.reward.preferences)
    OneProcessRun(config, store).go()

    plan = Plan(config=config)
    assert weights.versions(store, "policy") == [0, 1]
    for aspect in config.prompts.aspects:
        report = weights.open_version(store, f"reward-{aspect}", 0).attrs["report"]
        assert 0 < report["num_pairs"] < len(rows)
        assert report["accuracy"] > 0.5, "a right picture and another prompt's are easy to tell apart"
    write_results(store, plan, config.run_folder, {"wall_s": 1.0, "peak_rss_mb": 1, "phases": []}, {})
    tree = json.loads((config.run_folder / "results.json").read_text())
    assert {len(found["rounds"]) for found in tree["aspects"].values()} == {2}
    assert {len(found["gallery"]) for found in tree["aspects"].values()} == {0}
    assert "learned in 2 rounds from imported preferences:" in write_report(store, plan, config.run_folder).read_text()
