"""Experiment trackers by name, through accelerate's wrappers: scalars, a few images, the settings."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import ConfigError

Tracker = Any  # accelerate.tracking.GeneralTracker, whose import costs seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run as it starts; settings by dotted name."""

    project: str
    name: str
    folder: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one tracker is opened, and how it takes images [N, H, W, 3] u1 under a name and a step."""

    package: str
    open: Callable[[TrackedRun], Tracker]
    log_images: Callable[[Tracker, str, NDArray[np.uint8], int], None]


def check_trackers(names: Sequence[str]) -> None:
    """Raises: ConfigError if a tracker's package is not installed."""
    for name in names:
        if importlib.util.find_spec(TRACKERS[name].package) is None:
            raise ConfigError(
                f"tracking.trackers names {name!r}, which is not installed: pip install {TRACKERS[name].package}, "
                f"or leave it out (tracking.trackers=[])"
            )


LAUNCHER_VARIABLES = ("LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")


class Trackers:
    """All trackers of a run as one; none is fine."""

    def __init__(self, names: Sequence[str], run: TrackedRun) -> None:
        check_trackers(names)
        if names:
            _become_main_process()
        self._open = {name: TRACKERS[name].open(run) for name in names}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Scalars of one step."""
        for name, tracker in self._open.items():
            # wandb drops what is older than its latest step, and every metric here counts its own.
            tracker.log(dict(values), step=None if name == "wandb" else step)

    def log_images(self, name: str, images: NDArray[np.uint8], step: int) -> None:
        """Images [N, H, W, 3]; the caller caps N."""
        for kind, tracker in self._open.items():
            TRACKERS[kind].log_images(tracker, name, images, step)

    def close(self) -> None:
        """Flush and end."""
        for tracker in self._open.values():
            tracker.finish()


def _become_main_process() -> None:
    """Tell accelerate, whose wrappers ask it who the main process is, that this one is it and has no other beside it.

    What launchers of ranks (torchrun, mpirun, srun) leave in the environment would have it wait for others.
    """
    from accelerate import PartialState

    kept = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    try:
        PartialState(cpu=True)
    finally:
        os.environ.update(kept)


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree as one level: {"policy": {"batch": 16}} gives {"policy.batch": 16}; lists become text."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, (str, int, float)) else str(value)
    return found


def _tensorboard(run: TrackedRun) -> Tracker:
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("tensorboard", str(run.folder))
    tracker.start()
    tracker.writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in run.settings.items()))
    return tracker


def _tensorboard_images(tracker: Tracker, name: str, images: NDArray[np.uint8], step: int) -> None:
    tracker.log_images({name: images}, step=step, dataformats="NHWC")


def _wandb(run: TrackedRun) -> Tracker:
    from accelerate.tracking import WandBTracker

    # A resumed run is a second one of the same group, as wandb's own resuming needs the network.
    tracker = WandBTracker(run.project, name=run.name, group=run.name, dir=str(run.folder), config=dict(run.settings))
    tracker.start()
    return tracker


def _wandb_images(tracker: Tracker, name: str, images: NDArray[np.uint8], step: int) -> None:
    tracker.log_images({name: list(images)})


def _mlflow(run: TrackedRun) -> Tracker:
    from accelerate.tracking import MLflowTracker

    tracker = MLflowTracker(run.project, run_name=run.name)
    tracker.start()
    tracker.store_init_configuration(dict(run.settings))
    return tracker


def _mlflow_images(tracker: Tracker, name: str, images: NDArray[np.uint8], step: int) -> None:
    import mlflow  # type: ignore[import-not-found]  # optional: there if the config names it

    for place, image in enumerate(images):
        mlflow.log_image(image, key=f"{name}/{place}", step=step)


def _trackio(run: TrackedRun) -> Tracker:
    from accelerate.tracking import TrackioTracker

    tracker = TrackioTracker(run.project, name=run.name, config=dict(run.settings), resume="allow")
    tracker.start()
    return tracker


def _trackio_images(tracker: Tracker, name: str, images: NDArray[np.uint8], step: int) -> None:
    import trackio  # type: ignore[import-not-found]  # optional: there if the config names it

    tracker.log({f"{name}/{place}": trackio.Image(image) for place, image in enumerate(images)}, step=step)


TRACKERS = {
    "tensorboard": Kind(package="tensorboard", open=_tensorboard, log_images=_tensorboard_images),
    "wandb": Kind(package="wandb", open=_wandb, log_images=_wandb_images),
    "mlflow": Kind(package="mlflow", open=_mlflow, log_images=_mlflow_images),
    "trackio": Kind(package="trackio", open=_trackio, log_images=_trackio_images),
}
