"""The figures of probes: one line per round and series, a ring where an average was kept, and the same in words."""

from typing import Any

from itercomp_rl.report.probe_plots import probe_plots


def one(update: int, reward: float, judge: float, **more: float) -> dict[str, Any]:
    return {
        "update": update,
        "score": 0.3 + judge / 10,
        "scores": {"spatial": {"mean": 0.3 + judge / 10, "se": 0.01, "n": 32}},
        "gains": {"spatial": {"reward": reward, "judge": judge}},
        "diversity": 0.2,
        "saturation": 0.1,
        **more,
    }


ROUNDS = [
    {"round": 0, "kept_update": 20, "probes": [one(0, 0, 0), one(20, 1.5, 0.5), one(40, 2.5, 0.25)]},
    {"round": 1, "kept_update": None, "probes": [one(0, 0, 0), one(20, 0.75, -0.5)]},
]


def test_a_run_without_probes_has_no_figure() -> None:
    assert probe_plots([]) == []


def test_the_climbed_reward_stands_against_the_judge_in_every_round() -> None:
    gap, score, images = probe_plots(ROUNDS)
    assert "round 1: reward from 0 to 2.5, judge from 0 to 0.25; round 2: reward from 0 to 0.75" in gap.svg
    assert "round 1: mean from 0.3 to 0.325" in score.svg
    assert "diversity from 0.2 to 0.2" in images.svg
    assert "a ring is the average that a round published" in gap.caption


def test_a_reward_that_stays_the_same_has_its_own_figure() -> None:
    rounds = [{**found, "probes": [{**each, "reference_spatial": 0.5} for each in found["probes"]]} for found in ROUNDS]
    assert "spatial from 0.5 to 0.5" in probe_plots(rounds)[2].svg


def test_what_the_judge_cannot_tell_apart_leaves_the_other_figures() -> None:
    rounds = [{**ROUNDS[0], "probes": [{**each, "gains": {}} for each in ROUNDS[0]["probes"]]}]
    assert len(probe_plots(rounds)) == 2
