"""Laws of dealing out work, over random orders, durations and cancellations."""

import asyncio
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.loop.member_counts import most_at_work, num_members
from itercomp_rl.loop.worker_pool import WorkerPool, make_pools

KINDS = ("roller", "sampler")


class Member:
    """A name of a process for one kind of work."""

    def __init__(self, place: int) -> None:
        self.place = place


def pool_of_members(num: int, kept: dict[str, int]) -> WorkerPool[Member]:
    return WorkerPool(
        kept, [{kind: Member(place) for kind in (KINDS if place % 2 else KINDS[::-1])} for place in range(num)]
    )


@given(num=st.integers(1, 6), min_rollers=st.integers(0, 2), min_samplers=st.integers(0, 2), seed=st.integers(0, 10**6))
def test_nobody_does_two_things_at_once_each_kind_keeps_its_own_and_all_work_is_done(
    num: int, min_rollers: int, min_samplers: int, seed: int
) -> None:
    kept = {"roller": min_rollers, "sampler": min_samplers}
    assume(sum(kept.values()) <= num and max(kept.values()) < num)
    rng = random.Random(seed)
    at_work: dict[int, str] = {}
    done: list[str] = []
    most = {kind: num - sum(kept.values()) + kept[kind] for kind in KINDS}

    async def work(pool: WorkerPool[Member], kind: str) -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        member = await pool.get(kind)
        assert member.place not in at_work
        at_work[member.place] = kind
        assert list(at_work.values()).count(kind) <= most[kind]
        try:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            done.append(kind)
        finally:
            del at_work[member.place]
            pool.put(kind, member)

    async def run() -> int:
        pool = pool_of_members(num, kept)
        tasks = [asyncio.create_task(work(pool, rng.choice(KINDS))) for _ in range(40)]
        for task in rng.sample(tasks, 10):
            await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        # Whoever gave up left nobody behind: all members are there again for either kind.
        for kind in KINDS:
            found = [await asyncio.wait_for(pool.get(kind), 1) for _ in range(most[kind])]
            for member in found:
                pool.put(kind, member)
        return sum(not isinstance(one, asyncio.CancelledError) for one in ended)

    assert asyncio.run(run()) == len(done) >= 30


def test_an_idle_process_does_what_is_waited_for_and_rollers_go_first() -> None:
    async def run() -> None:
        pool = pool_of_members(3, {"roller": 0, "sampler": 0})
        busy = [await pool.get("sampler") for _ in range(3)]
        waiting = [asyncio.create_task(pool.get(kind)) for kind in ("sampler", "roller")]
        await asyncio.sleep(0)
        pool.put("sampler", busy[0])
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [False, True]
        assert (await waiting[1]).place == busy[0].place
        waiting[0].cancel()

    asyncio.run(run())


def test_a_member_goes_on_with_what_it_did_last_while_there_is_a_choice() -> None:
    async def run() -> None:
        pool = pool_of_members(4, {"roller": 0, "sampler": 0})
        first = await pool.get("roller")
        pool.put("roller", first)
        places = {(await pool.get("roller")).place for _ in range(2)}
        assert places == {1, 3}  # the two that began as rollers

    asyncio.run(run())


def test_with_autoscale_samplers_and_rollers_are_one_crew() -> None:
    settings = ["actors.samplers.count=3", "actors.rollers.count=2", "actors.min_rollers=2", "actors.autoscale=true"]
    actors = load_config("tiny", [*settings, "actors.layout=separate"]).actors
    assert (num_members(actors, "sampler"), num_members(actors, "roller")) == (5, 5)
    assert (most_at_work(actors, "sampler"), most_at_work(actors, "roller")) == (3, 4)
    pools = make_pools(actors, {"sampler": [*"abcde"], "roller": [*"fghij"], "judge": [*"kl"]})
    assert pools["sampler"] is pools["roller"]
    assert asyncio.run(pools["roller"].get("roller")) == "i"
    shared = load_config("tiny", settings).actors  # layout shared: processes do everything already
    assert num_members(shared, "sampler") == 3


@pytest.mark.parametrize("kept", [("0", "5"), ("3", "3"), ("-1", "1")])
def test_what_is_kept_must_leave_something_to_either(kept: tuple[str, str]) -> None:
    counts = ["actors.samplers.count=3", "actors.rollers.count=2", "actors.layout=separate", "actors.autoscale=true"]
    with pytest.raises(ConfigError, match=r"actors\.min_"):
        load_config("tiny", [*counts, f"actors.min_samplers={kept[0]}", f"actors.min_rollers={kept[1]}"])
