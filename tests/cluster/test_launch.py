"""What trackers are shown: a policy's held-out images once all are drawn, also where a run was killed in between."""

import numpy as np

from itercomp_rl.config.load import load_config
from itercomp_rl.plan import Plan
from itercomp_rl.report.images import held_out_pictures
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
