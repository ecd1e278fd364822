"""Probes' numbers, by hand: images first, then scores, gaps and what results.json has of them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.config.load import load_config
from itercomp_rl.evaluation.probes import Probe, clipped_share, distances, gains, load_probe, probe_values, probes_tree
from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store


def test_saturation_is_the_share_of_colour_values_at_either_end() -> None:
    image = np.array([[[0, 255, 7], [254, 1, 255]]], np.uint8)
    assert clipped_share(image) == pytest.approx(3 / 6)


@given(level=st.integers(0, 255), other=st.integers(0, 255))
def test_diversity_is_the_distance_between_images_of_one_prompt_and_no_other(level: int, other: int) -> None:
    images = [np.full((2, 2, 3), value, np.uint8) for value in (level, 9, other)]
    assert distances(["a", "b", "a"], images) == [("a", pytest.approx(abs(level - other) / 255))]
    assert distances(["a", "b", "c"], images) == []


def test_diversity_is_the_mean_over_all_pairs() -> None:
    images = [np.full((1, 1, 3), value, np.uint8) for value in (0, 51, 255)]
    ((_, distance),) = distances(["a"] * 3, images)
    assert distance == pytest.approx((0.2 + 1.0 + 0.8) / 3)


def probe(update: int, judged: list[float], rewards: list[float]) -> Probe:
    return Probe(
        update=update,
        judge={"spatial": [(f"p{i // 2}", score) for i, score in enumerate(judged)]},
        rewards={"spatial": rewards} if rewards else {},
        reference={},
        saturation=0.1,
        diversity=0.2,
    )


def test_a_gap_opens_where_the_reward_rises_and_the_judge_does_not() -> None:
    first = probe(0, [0.0, 0.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0])  # standard deviations 0.5 and 1
    later = probe(20, [0.5, 0.5, 1.0, 1.0], [1.0, 3.0, 1.0, 3.0])
    # reward: (2 - 0) / 1 = 2; judge: (0.75 - 0.5) / 0.5 = 0.5
    assert gains(first, later) == {"spatial": (pytest.approx(2.0), pytest.approx(0.5))}
    assert gains(first, first) == {"spatial": (0.0, 0.0)}
    plan = Plan(config=load_config("tiny", ["policy.targets={spatial: 2.5}"]))
    values = probe_values(first, later, plan)
    assert values["gap_spatial"] == pytest.approx(1.5)
    assert values["share_past_target_spatial"] == 0.5
    assert (values["score"], values["images_spatial"]) == (0.75, 4)


def test_an_aspect_that_cannot_be_compared_has_no_gap() -> None:
    same = probe(0, [0.5, 0.5], [1.0, 2.0])
    assert gains(same, probe(20, [0.5, 0.7], [1.0, 2.0])) == {}
    assert gains(probe(0, [0.0, 1.0], []), probe(20, [0.0, 1.0], [])) == {}


def test_a_probe_of_which_no_image_could_be_graded_is_below_all_others() -> None:
    lost = Probe(update=0, judge={}, rewards={}, reference={}, saturation=0.0, diversity=0.0)
    assert lost.score < probe(20, [0.0, 0.0], []).score


def grade(store: Store, plan: Plan, round_: int, update: int, scores: float) -> None:
    for order in plan.probe_orders(round_, update):
        rows: list[dict[str, Any]] = [
            {
                "prompt": prompt.id,
                "grades": dict.fromkeys(prompt.aspects, scores + (row // 2 % 2) / 10),
                "rewards": dict.fromkeys(prompt.aspects, update / 10 + row % 2),
                "reference": {},
                "clipped": 0.25,
            }
            for row, prompt in enumerate(order.prompts)
        ]
        attrs = {"round": round_, "update": update, "rows": rows, "distances": [[order.prompts[0].id, 0.5]]}
        store.put("probe-grades", order.id, {}, attrs)


def test_results_have_every_graded_probe_of_every_round_and_which_one_was_kept() -> None:
    plan = Plan(config=load_config("tiny", ["evaluation.probe_every=2", "gallery.segment=25"]))
    store = open_store("memory://", create=True)
    assert probes_tree(store, plan) == []
    for update, score in ((0, 0.2), (2, 0.6), (4, 0.4)):
        grade(store, plan, 0, update, score)
    grade(store, plan, 1, 0, 0.1)
    weights.publish(store, "policy", 0, {"w": torch.ones(1)}, {"updates": 4, "kept_update": 2})
    first, second = probes_tree(store, plan)
    assert (first["round"], first["kept_update"]) == (0, 2)
    assert (second["round"], second["kept_update"]) == (1, None)
    assert [one["update"] for one in first["probes"]] == [0, 2, 4]
    assert first["probes"][1]["scores"]["spatial"]["n"] == 32
    assert first["probes"][0]["gap_spatial"] == 0
    assert {one["diversity"] for one in first["probes"]} == {0.5}
    assert load_probe(store, plan, 0, 2).score > load_probe(store, plan, 0, 4).score
