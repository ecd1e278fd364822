"""Where a model named in a config lies: shipped with the project, in a folder, or on the Hub."""

from importlib import resources
from pathlib import Path

from itercomp_rl.errors import CheckpointError

EMBEDDED = "embedded:"


def checkpoint_path(name: str) -> str:
    """The folder or hub id of a checkpoint; "embedded:base" is the folder of a shipped model.

    Raises: CheckpointError if no such model is shipped.
    """
    if not name.startswith(EMBEDDED):
        return name
    root = Path(str(resources.files("itercomp_rl.shapes") / "weights"))
    folder = root / name.removeprefix(EMBEDDED)
    if not folder.is_dir():
        known = sorted(path.name for path in root.glob("*")) if root.is_dir() else []
        raise CheckpointError(f"{name!r} is not shipped with the project; shipped: {', '.join(known) or 'none'}")
    return str(folder)
