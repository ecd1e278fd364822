"""Which live weights of a run stay: those that a round still learns from, and what readers hold."""

from dataclasses import replace

import pytest
import torch

from itercomp_rl.store import weights
from itercomp_rl.store.kinds import average_role
from itercomp_rl.store.live_weights import SUPERSEDED_AFTER_S, collect_run
from itercomp_rl.store.retention import Lease, lease, release, verify
from itercomp_rl.store.store import Store, open_store

NOW = 1.8e9
FIRST, SECOND = "live-00000001", "live-00000002"
REWARD, REWARD_AGAIN = "live-reward-object-00000003", "live-reward-object-00000004"
LATER = NOW + SUPERSEDED_AFTER_S


@pytest.fixture
def store() -> Store:
    return open_store("memory://", create=True)


def publish(store: Store, role: str, *versions: int, time_s: float = NOW, **attrs: int) -> None:
    for version in versions:
        at = replace(store, clock=lambda: time_s)
        weights.publish(at, role, version, {"w": torch.full((4,), float(version))}, attrs)


def left(store: Store, *roles: str) -> list[list[int]]:
    return [weights.versions(store, role) for role in roles]


def collect(store: Store, now: float) -> None:
    for later_s in range(3):  # a version, then what it is based on
        collect_run(store, grace_s=0, now=now + later_s)


def test_of_a_round_whose_policy_is_published_no_live_weights_stay(store: Store) -> None:
    for role, round_ in ((FIRST, 0), (REWARD, 0), (SECOND, 1), (REWARD_AGAIN, 1)):
        publish(store, role, 0, round=round_)
        publish(store, role, 1, round=round_, base_version=0)
        publish(store, role, *range(2, 7), round=round_)
    publish(store, "reward-object", *range(6), round=0)
    collect(store, NOW)
    assert left(store, FIRST, REWARD, SECOND, REWARD_AGAIN) == [[3, 4, 5, 6]] * 4
    publish(store, "policy", 0, round=0)
    collect(store, NOW)
    assert left(store, FIRST, REWARD, SECOND, REWARD_AGAIN) == [[], [], [3, 4, 5, 6], [3, 4, 5, 6]]
    assert store.backend.sizes(f"weights/{FIRST}") == {}
    assert left(store, "policy", "reward-object") == [[0], [0, 1, 2, 3, 4, 5]]
    assert verify(store) == []


def test_every_average_that_was_probed_stays_until_the_policy_of_its_round_is_published(store: Store) -> None:
    roles = [average_role(0), average_role(1)]
    for round_, role in enumerate(roles):
        publish(store, role, *range(0, 140, 20), round=round_)
    publish(store, FIRST, *range(7), round=0)
    collect(store, NOW)
    assert left(store, *roles, FIRST) == [[*range(0, 140, 20)], [*range(0, 140, 20)], [3, 4, 5, 6]]
    publish(store, "policy", 0, round=0)
    collect(store, NOW)
    assert left(store, *roles, FIRST) == [[], [*range(0, 140, 20)], []]
    assert verify(store) == []


def test_a_lease_holds_a_finished_rounds_version_and_what_it_is_based_on(store: Store) -> None:
    publish(store, FIRST, 0, 1, round=0)
    publish(store, FIRST, 2, 3, round=0, base_version=0)
    publish(store, "policy", 0, round=0)
    lease(store, Lease(reader="roller-0", role=FIRST, version=3, expires_s=NOW + 100))
    collect(store, NOW)
    assert left(store, FIRST) == [[0, 3]]
    release(store, "roller-0")
    collect(store, NOW)
    assert left(store, FIRST) == [[]]


def test_a_policys_attempt_goes_once_a_newer_one_is_past_all_doubt(store: Store) -> None:
    publish(store, FIRST, 0, 1, round=0)
    publish(store, SECOND, 0, time_s=LATER - 1, round=0)
    collect(store, LATER)
    assert left(store, FIRST, SECOND) == [[0, 1], [0]], "a clock may have gone wrong by so much"
    publish(store, SECOND, *range(1, 5), time_s=LATER, round=0)
    collect(store, LATER - 10)
    assert left(store, FIRST, SECOND) == [[0, 1], [1, 2, 3, 4]], "by the collector's own clock it is not yet so old"
    collect(store, LATER)
    assert left(store, FIRST, SECOND) == [[], [1, 2, 3, 4]]


def test_a_late_word_of_an_older_attempt_does_not_take_the_newer_one(store: Store) -> None:
    publish(store, FIRST, 0, round=0)
    publish(store, SECOND, 0, round=0)
    publish(store, FIRST, 1, time_s=LATER, round=0)  # a rank that outlived its group
    collect(store, LATER + 10)
    assert left(store, FIRST, SECOND) == [[0, 1], [0]]


@pytest.mark.parametrize(
    ("older", "newer", "rounds"),
    [
        (FIRST, SECOND, (0, 1)),
        (REWARD, REWARD_AGAIN, (0, 0)),  # the policy may learn by the model of an attempt that died
        (FIRST, REWARD, (0, 0)),
        ("live-mine", SECOND, (0, 0)),
        ("mine", SECOND, (0, 0)),
    ],
)
def test_what_a_round_may_still_read_stays(store: Store, older: str, newer: str, rounds: tuple[int, int]) -> None:
    publish(store, older, 1, round=rounds[0])
    publish(store, newer, 0, time_s=LATER + 1e6, round=rounds[1])
    collect(store, LATER + 2e6)
    assert left(store, older, newer) == [[1], [0]]


def test_live_weights_of_an_unknown_round_stay(store: Store) -> None:
    publish(store, "policy", 0, round=0)
    publish(store, FIRST, 0)
    publish(store, REWARD, 0, round=0)
    publish(store, REWARD, 1, round=1)
    publish(store, SECOND, 0, time_s=LATER)
    collect(store, LATER)
    assert left(store, FIRST, REWARD, SECOND) == [[0], [0, 1], [0]]
