"""What this machine has for its processes."""

from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")  # of a container: where its own limits stand
_USED = {  # folder; file of the bytes used; entry of memory.stat for those of them that are easily given up
    "v2": ("", "memory.current", "inactive_file"),
    "v1": ("memory", "memory.usage_in_bytes", "total_inactive_file"),
}


def ram_bytes() -> int:
    """RAM that this machine's processes may have: its own, or a container's limit (cgroup v2 or v1) if that is less."""
    return min([psutil.virtual_memory().total, *_limits().values()])


def free_ram_bytes() -> int:
    """RAM that is left: this machine's, or what a container has not used of its limit if that is less.

    Pages of files that nobody used lately count as free, as the kernel gives them up first.
    """
    left = [psutil.virtual_memory().available]
    for version, limit in _limits().items():
        folder, used, dropped = _USED[version]
        with suppress(OSError, ValueError, KeyError):
            stat = dict(line.split() for line in (CGROUP / folder / "memory.stat").read_text("utf-8").splitlines())
            left.append(max(0, limit - int((CGROUP / folder / used).read_text("utf-8")) + int(stat[dropped])))
    return min(left)


def _limits() -> dict[str, int]:
    """Of a container, by the version of its cgroup; none where there is no limit."""
    found = {}
    for version, name in {"v2": "memory.max", "v1": "memory/memory.limit_in_bytes"}.items():
        with suppress(OSError, ValueError):  # no such file outside of containers; "max" where there is no limit
            found[version] = int((CGROUP / name).read_text("utf-8"))
    return found
