"""A newcomer's place in a ranked list, against recorded cases of the rule the official code means to follow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from itercomp_rl.ranking.ranking import place_newcomer


@pytest.fixture(scope="module")
def recorded(parity_dir: Path) -> dict[str, Any]:
    return json.loads((parity_dir / "insertion" / "cases.json").read_text())


def place_all(rank: Sequence[int], rewards: Mapping[str, float], new: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The rank after each newcomer in turn."""
    scores = {**rewards, **{str(item["id"]): item["reward"] for item in new}}
    order = tuple((str(model),) for model in rank)
    ranks = []
    for item in new:
        order = place_newcomer(order, scores, str(item["id"]), "official_fixed")
        ranks.append([int(place[0]) for place in order])
    return ranks


def check_two_newcomers(case: Mapping[str, Any]) -> None:
    after_first, after_both = place_all(case["rank"], case["rewards"], case["new"])
    assert after_first == case["correct_after_first"]
    assert after_both == case["correct"]


def test_two_newcomers_land_where_recorded(recorded: dict[str, Any]) -> None:
    assert recorded["cases"]
    for case in recorded["cases"]:
        check_two_newcomers(case)


def test_one_newcomer_lands_where_recorded_in_lists_of_any_length(recorded: dict[str, Any]) -> None:
    assert recorded["generic"]
    for case in recorded["generic"]:
        assert place_all(case["rank"], case["rewards"], [case["new"]]) == [case["correct"]]


def test_ids_do_not_drift_over_the_items_of_a_file(recorded: dict[str, Any]) -> None:
    assert recorded["several_items"]
    for group in recorded["several_items"]:
        for item, correct in zip(group["items"], group["correct"], strict=True):
            num = len(item["rank"])
            rewards = {str(i): reward for i, reward in enumerate(item["rewards"], start=1)}
            new = [{"id": num + 1, "reward": item["base"]}, {"id": num + 2, "reward": item["add"]}]
            assert place_all(item["rank"], rewards, new)[-1] == correct


def test_a_recorded_place_moved_by_one_is_noticed(recorded: dict[str, Any]) -> None:
    for case in recorded["cases"]:
        moved = list(case["correct"])
        i = moved.index(case["new"][-1]["id"])
        j = i - 1 if i else 1
        moved[i], moved[j] = moved[j], moved[i]
        with pytest.raises(AssertionError):
            check_two_newcomers({**case, "correct": moved})
