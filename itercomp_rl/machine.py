"""What this machine has for its processes."""

from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")  # of a container: where its own limits stand


def ram_bytes() -> int:
    """RAM that this machine's processes may have: its own, or a container's limit (cgroup v2 or v1) if that is less."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file outside of containers; "max" where there is no limit
            limits.append(int((CGROUP / name).read_text(encoding="utf-8")))
    return min(limits)
