"""Who writes one version of weights together: each rank a share of the tensors, the first one the marker."""

from dataclasses import dataclass
from typing import Protocol

from itercomp_rl.store.layout import JSON


class Writers(Protocol):
    """The ranks of one learner; all of them make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This one's place, 0 .. num - 1."""
        ...

    @property
    def num(self) -> int:
        """How many there are."""
        ...

    def exchange(self, value: JSON) -> list[JSON]:
        """What every rank says, in their order; returns once all have said it."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """One rank that writes everything."""

    rank: int = 0
    num: int = 1

    def exchange(self, value: JSON) -> list[JSON]:
        return [value]


ALONE = Alone()
