"""All that a run leaves in its store, to be compared with another run's, bit for bit."""

from typing import Any

import numpy as np
import torch

from itercomp_rl.config.schema import Config
from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from itercomp_rl.store.retention import collect, verify
from itercomp_rl.store.store import Store


def check_ledger(config: Config, store: Store) -> None:
    """Every piece of work of the plan is there once and the store is whole; what kills left unfinished is collected."""
    plan = Plan(config=config)
    segments = range(len(plan.segments()))
    planned = [order.id for r in range(plan.rounds) for i in segments for order in plan.draw_orders(r, i)]
    assert store.ids("images") == sorted(planned), "each model x prompt x round has one image group"
    assert store.ids("rankings") == sorted(id_ for r in range(plan.rounds) for id_ in plan.rankings(r))
    graded = {order.id for order in plan.grading_orders(plan.evaluated())}
    assert store.ids("evaluations") == store.ids("grades") == sorted(graded)
    assert store.ids("probes") == store.ids("probe-grades")
    probed = [order.id for r in range(plan.rounds) for u in plan.probe_updates for order in plan.probe_orders(r, u)]
    assert set(store.ids("probes")) <= set(probed)
    assert {problem.kind for problem in verify(store)} <= {"orphan"}, "a kill in a write leaves no more than an orphan"
    collect(store, grace_s=0, now=1e12)
    assert verify(store) == []


def outcome(config: Config, store: Store) -> dict[str, Any]:
    """All that a run leaves: images, rankings, grades and every published weight. Checks the ledger and the store."""
    check_ledger(config, store)
    found: dict[str, Any] = {}
    for kind in ("images", "evaluations", "probes"):
        found |= {f"{kind}/{id_}": store.get(kind, id_).arrays["images"] for id_ in store.ids(kind)}
    for kind in ("rankings", "grades", "probe-grades"):
        found |= {f"{kind}/{id_}": store.get(kind, id_).attrs for id_ in store.ids(kind)}
    for role in ("policy", *(f"reward-{aspect}" for aspect in config.prompts.aspects)):
        assert weights.versions(store, role) == [0, 1]
        found |= {f"{role}/{version}": weights.open_version(store, role, version).load() for version in (0, 1)}
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, other[key]), key
        elif isinstance(next(iter(value.values())), torch.Tensor):
            assert all(torch.equal(tensor, other[key][name]) for name, tensor in value.items()), key
        else:
            assert value == other[key], key
