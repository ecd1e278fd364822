"""Ranks that write together, as threads of one process."""

import json
import threading
from typing import Any


class Table:
    """Ranks that are threads: what each says is heard by all once all have said it."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._said: list[Any] = [None] * num
        self.barrier = threading.Barrier(num, timeout=30)

    def seat(self, rank: int) -> "Seat":
        return Seat(self, rank)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._said[rank] = json.loads(json.dumps(value))
        self.barrier.wait()
        heard = list(self._said)
        self.barrier.wait()
        return heard


class Seat:
    """Satisfies Ranks."""

    def __init__(self, table: Table, rank: int) -> None:
        self._table, self.rank, self.num = table, rank, table.num

    def exchange(self, value: Any) -> list[Any]:
        return self._table.exchange(self.rank, value)
