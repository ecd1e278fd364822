"""Where a learner's checkpoints lie: one folder per kept update, of which the highest complete one counts."""

import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError

from itercomp_rl.errors import CheckpointError
from learners.engine.engine import Engine
from learners.engine.shard import COMMIT_NAME

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and the one before it


def newest_checkpoint(folder: Path, stem: str) -> Path | None:
    """The complete checkpoint of the highest update."""
    complete = sorted(path.parent for path in folder.glob(f"{stem}-u*/{COMMIT_NAME}"))
    return complete[-1] if complete else None


def save_checkpoint(engine: Engine, folder: Path, stem: str, *, rank: int = 0) -> None:
    """Keep the engine's state under its number of updates, and the one before; every rank of a group calls this.

    Raises: CheckpointError if it cannot be written; the one before then stays whole.
    """
    path = folder / f"{stem}-u{engine.updates:07d}"
    if (path / COMMIT_NAME).exists():
        return
    try:
        engine.save(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(path, ignore_errors=True)  # a full disk needs the space
        raise CheckpointError(
            f"checkpoint {path} cannot be written ({error}): free space on the disk of run.dir, or let this user write "
            "there; then go on with --resume"
        ) from error
    if rank == 0:
        _prune(folder, stem)


def drop_checkpoints(folder: Path, stem: str, *, rank: int = 0) -> None:
    """To be called once what was learned is published: nobody goes on from before that."""
    if rank != 0:
        return
    try:
        for mark in folder.glob(f"{stem}-u*/{COMMIT_NAME}"):
            mark.unlink()  # first: what a kill leaves behind is no checkpoint
        for path in folder.glob(f"{stem}-u*"):
            shutil.rmtree(path)
    except OSError as error:
        log.warning("checkpoints of %s in %s are needed no more, and could not be deleted: %s", stem, folder, error)


def _prune(folder: Path, stem: str) -> None:
    complete = sorted(folder.glob(f"{stem}-u*/{COMMIT_NAME}"))
    for mark in complete[:-KEPT]:
        mark.unlink()  # first: what a kill leaves behind is no checkpoint
        shutil.rmtree(mark.parent)


def load_checkpoint(engine: Engine, path: Path) -> None:
    """Go on from a checkpoint. Raises: CheckpointError if it holds another update than its name says."""
    engine.load(path)
    if engine.updates != int(path.name.rsplit("-u", 1)[1]):
        raise CheckpointError(f"checkpoint {path} says it holds update {engine.updates}: delete it and resume again")
