"""Busy shares: hand-worked intervals, and a bound."""

from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.observability.utilisation import Meter


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_hand_worked_shares() -> None:
    clock = Clock()
    meter = Meter({"sampler": 2, "judge": 1}, clock)
    meter.begin("sampler")  # one of two samplers from 0 to 4, both from 4 to 6
    clock.now = 4
    meter.begin("sampler")
    clock.now = 6
    meter.end("sampler")
    meter.end("sampler")
    clock.now = 10
    # (4 * 1 + 2 * 2) busy member seconds of 10 * 2.
    assert meter.shares() == {"sampler": 0.4, "judge": 0.0}
    clock.now = 12
    assert meter.shares() == {"sampler": 0.0, "judge": 0.0}


def test_work_that_waits_for_a_member_does_not_make_it_busier_than_busy() -> None:
    clock = Clock()
    meter = Meter({"judge": 1}, clock)
    for _ in range(5):
        meter.begin("judge")
    clock.now = 3
    assert meter.shares() == {"judge": 1.0}


def test_members_that_work_together_are_busy_together() -> None:
    clock = Clock()
    meter = Meter({"policy_learner": 4}, clock)
    meter.begin("policy_learner", 4)
    clock.now = 1
    meter.end("policy_learner", 4)
    clock.now = 4
    assert meter.shares() == {"policy_learner": 0.25}


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.floats(0, 10)), max_size=30), st.integers(1, 4))
def test_a_share_is_within_nought_and_one(events: list[tuple[str, float]], num: int) -> None:
    clock = Clock()
    meter, under_way = Meter({"roller": num}, clock), 0
    for event, pause in events:
        clock.now += pause
        if event == "begin":
            meter.begin("roller")
            under_way += 1
        elif under_way:
            meter.end("roller")
            under_way -= 1
    assert -1e-9 <= meter.shares()["roller"] <= 1 + 1e-9
