"""Which code wrote a record: versions of what decides its bytes, and a hash of the project's own source."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("actors", "cluster", "itercomp_rl", "learners")


@cache
def software() -> dict[str, str]:
    """What every commit says of the software that made it; computed once a process."""
    try:
        own = version("itercomp-rl")
    except PackageNotFoundError:
        own = "a checkout, not installed"
    found = {"itercomp-rl": own, "code": code_version(Path(__file__).resolve().parents[2])}
    return found | {"zarr": version("zarr"), "numpy": version("numpy"), "python": platform.python_version()}


def code_version(root: Path) -> str:
    """Twelve hex digits that change with any Python file of the project's packages; equal on every node of a run."""
    found = hashlib.sha256()
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        data = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()}\n{len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    names = ("torch", "diffusers", "transformers", "ray", "deepspeed", "zarr", "numpy")
    return {name: metadata.version(name) for name in names}
