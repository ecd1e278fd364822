"""What is checked and copied before a run's processes start, and what trackers are shown of it.

Trackers see a policy's held-out images once all are drawn, also where a run was killed in between.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.launch import check, opened
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.plan import Plan
from itercomp_rl.report.images import held_out_pictures
from itercomp_rl.run.preference_files import Options
from itercomp_rl.run.preferences_import import import_preferences
from itercomp_rl.store.store import open_store


def test_trackers_see_a_policy_only_once_all_of_its_held_out_images_are_drawn() -> None:
    plan = Plan(config=load_config("tiny", ["gallery.segment=10", "tracking.images=6"]))
    store = open_store("memory://", create=True)
    pictures = held_out_pictures(store, plan)
    assert pictures is not None
    orders = plan.evaluation_orders(plan.policy(0))
    assert len(orders) > 1
    for number, order in enumerate(orders):
        # A resumed run passes the evaluation of the base again, with part of the first policy's images there.
        assert pictures(0) is None
        store.put("evaluations", order.id, {"images": np.full((len(order.prompts), 4, 4, 3), number, np.uint8)}, {})
    shown = pictures(0)
    assert shown is not None and shown.shape == (6, 4, 4, 3)


def test_members_made_elsewhere_are_checked_before_a_run_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "closed" / "a horse.png")
    closed = f"gallery.members.closed={{system: folder, model: '{tmp_path / 'closed'}'}}"
    with pytest.raises(
        ConfigError, match=r"members\.closed\.model is .*none of its images is of one of the 60 gallery"
    ):
        check(load_config("tiny", [f"run.dir={tmp_path}", closed]), None)
    served = "gallery.members.served={system: endpoint, endpoint: hall, model: big, size_px: 32}"
    hall = "gallery.endpoints.hall={url: 'http://127.0.0.1:1/v1', max_retries: 0}"
    with pytest.raises(ConfigError, match=r"members\.served: .*drew no image of 1 gallery prompts"):
        check(load_config("tiny", [f"run.dir={tmp_path}", served, hall]), None)
    assert not (tmp_path / "tiny").exists()


def test_a_run_that_is_opened_holds_its_imported_preferences(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "a cup", "winner": "a.png", "loser": "b.png"}))
    import_preferences([tmp_path / "own.jsonl"], tmp_path / "set", Options(aspects=("spatial",)))
    checked = check(load_config("tiny", [f"run.dir={tmp_path}", f"reward.preferences=[{tmp_path / 'set'}]"]), None)
    for resume in (False, True):
        with opened(checked, resume=resume) as store:
            assert len(store.ids("preferences")) == len(store.ids("images")) == 1
