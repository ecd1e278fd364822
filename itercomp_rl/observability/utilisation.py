"""How busy each role is: the share of its members that have work."""

import time
from collections.abc import Callable, Mapping


class Meter:
    """Busy shares of roles with a known number of members; `clock` gives seconds."""

    def __init__(self, members: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._members, self._clock = dict(members), clock
        self.under_way = dict.fromkeys(members, 0)
        self._busy_s = dict.fromkeys(members, 0.0)
        self._since = self._counted = clock()

    def begin(self, role: str, members: int = 1) -> None:
        """A piece of work was handed to the role; so many members do it together."""
        self._count()
        self.under_way[role] += members

    def end(self, role: str, members: int = 1) -> None:
        """A piece of the role's work is over."""
        self._count()
        self.under_way[role] -= members

    def shares(self) -> dict[str, float]:
        """Busy share of each role since the last call, 0..1; more work than members counts as all of them busy."""
        self._count()
        span = self._counted - self._since
        found = {role: busy / (span * self._members[role]) if span else 0.0 for role, busy in self._busy_s.items()}
        self._since, self._busy_s = self._counted, dict.fromkeys(self._members, 0.0)
        return found

    def _count(self) -> None:
        now = self._clock()
        for role, under_way in self.under_way.items():
            self._busy_s[role] += (now - self._counted) * min(under_way, self._members[role])
        self._counted = now
