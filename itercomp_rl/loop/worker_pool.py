"""Worker pools: idle members are handed out to the callers that wait for one.

With `actors.autoscale`, processes that hold a sampler and a roller are one pool: an idle one draws or rolls,
whichever is waited for. The driver's pools and the simulator use this same code.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from itercomp_rl.config.schema import ActorsConfig
from itercomp_rl.loop.member_counts import share_processes

T = TypeVar("T")

POOLED = ("sampler", "judge", "roller")  # kinds whose members can stand in for each other


class WorkerPool(Generic[T]):
    """WorkerPool({"roller": 1, "sampler": 1}, [{"sampler": s0, "roller": r0}, {"roller": r1, "sampler": s1}])."""

    def __init__(self, kinds: Mapping[str, int], members: Sequence[Mapping[str, T]]) -> None:
        """Make a pool in which every member is idle.

        kinds: each kind of work, highest priority first, mapped to the number of members reserved for it.
        members: for each member, the object to call for each kind of work; its first kind is the one it is ready for.
        """
        self._members = members
        self._places = {id(name): place for place, names in enumerate(members) for name in names.values()}
        self._most = {kind: len(members) - sum(kinds.values()) + kept for kind, kept in kinds.items()}
        self._busy = dict.fromkeys(kinds, 0)
        self._waiting: dict[str, deque[asyncio.Future[T]]] = {kind: deque() for kind in kinds}
        self._idle: dict[str, deque[int]] = {kind: deque() for kind in kinds}  # by the kind that they did last
        for place, names in enumerate(members):
            self._idle[next(iter(names))].append(place)

    async def get(self, kind: str) -> T:
        """A member without work, the next that there is; whoever asked first gets it."""
        turn: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(turn)
        self._deal()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came just as the wait was given up
                self.put(kind, turn.result())
            raise

    def put(self, kind: str, member: T) -> None:
        """The member has done its work of this kind."""
        self._busy[kind] -= 1
        self._idle[kind].append(self._places[id(member)])
        self._deal()

    def _deal(self) -> None:
        for kind, waiting in self._waiting.items():
            while waiting and self._busy[kind] < self._most[kind] and any(self._idle.values()):
                turn = waiting.popleft()
                if not turn.done():
                    self._busy[kind] += 1
                    turn.set_result(self._members[self._next(kind)][kind])

    def _next(self, kind: str) -> int:
        """One that did this last, and so holds its weights; else any."""
        return (self._idle[kind] or next(idle for idle in self._idle.values() if idle)).popleft()


def make_pools(actors: ActorsConfig, members: Mapping[str, Sequence[T]]) -> dict[str, WorkerPool[T]]:
    """The pool of each pooled kind, of its members in order; samplers and rollers have one together with autoscale."""
    if not share_processes(actors):
        return {kind: WorkerPool({kind: 0}, [{kind: member} for member in members[kind]]) for kind in POOLED}
    samplers, rollers, num = members["sampler"], members["roller"], actors.samplers.count
    both = [{"sampler": sampler, "roller": roller} for sampler, roller in zip(samplers, rollers, strict=True)]
    rolling = [{"roller": names["roller"], "sampler": names["sampler"]} for names in both[num:]]
    # Rollers first: a learner waits for them.
    one = WorkerPool({"roller": actors.min_rollers, "sampler": actors.min_samplers}, [*both[:num], *rolling])
    return {"sampler": one, "roller": one, "judge": WorkerPool({"judge": 0}, [{"judge": m} for m in members["judge"]])}
