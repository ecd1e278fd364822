"""How much this process has moved to and from stores, for whoever reports it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Traffic:
    """Bytes and seconds by direction ("read", "write") since the process began; threads may add at once."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.seconds: dict[str, float] = {"read": 0.0, "write": 0.0}
        self._lock = threading.Lock()

    @contextmanager
    def moving(self, direction: str, num_bytes: int) -> Iterator[None]:
        """Around the transfer of so many bytes; one that fails is not counted."""
        began = time.perf_counter()
        yield
        spent = time.perf_counter() - began
        with self._lock:
            self.bytes[direction] += num_bytes
            self.seconds[direction] += spent


TRAFFIC = Traffic()
