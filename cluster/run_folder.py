"""A run folder: made, or found with its settings and its store. Needs neither Ray nor torch."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from cluster.local_paths import settled
from itercomp_rl.config.load import config_of_run, to_tree
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.store.store import Store, open_store

log = logging.getLogger(__name__)


def load_run(run_: str | Path) -> tuple[Config, Store]:
    """The config and store of a run folder, or of a run's name under ./runs. Raises: ConfigError if there is none."""
    folder = Path(run_)
    if not (folder / "config.yaml").exists():
        folder = Path("runs") / str(run_)
    file = folder / "config.yaml"
    if not file.exists():
        raise ConfigError(f"{str(run_)!r} is no run: give a run folder, or the name of one under ./runs")
    config = config_of_run(file)
    at = folder.absolute()  # the folder may have been moved
    config = settled(replace(config, run=replace(config.run, dir=str(at.parent), name=at.name)))
    return config, open_store(config.store_url, durable=config.store.durable)


def load_store(run_or_url: str) -> Store:
    """The store of a run, or the one at a URL. Raises: ConfigError, StoreError."""
    return open_store(run_or_url) if "://" in run_or_url else load_run(run_or_url)[1]


def prepare_folder(config: Config, *, resume: bool) -> Path:
    """The run folder with its config in it; an existing run is only continued with `resume` and the same config.

    Raises: ConfigError if the folder holds a run and `resume` is off, or the config differs in more than its actors.
    """
    folder = config.run_folder
    file = folder / "config.yaml"
    if file.exists():
        if not resume:
            raise ConfigError(
                f"run.name is {config.run.name!r}, and {folder} holds such a run: continue it with --resume, "
                "or choose another run.name"
            )
        old = config_of_run(file)
        old = settled(replace(old, run=replace(old.run, dir=config.run.dir)))  # the folder may have been moved
        differing = [
            key for key, value in to_tree(config).items() if value != to_tree(old)[key] and key not in _MAY_CHANGE
        ]
        if differing:
            raise ConfigError(
                f"--resume with another {', '.join(differing)}: a run keeps its settings; give the old ones ({file}), "
                "or start a new run under another run.name"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".rayignore").write_text("*\n", encoding="utf-8")  # runs never travel with a job's working folder
        OmegaConf.save(OmegaConf.create(to_tree(config)), file)
    except OSError as error:
        raise ConfigError(f"run.dir is {config.run.dir!r}: {folder} cannot be written ({error})") from error
    return folder


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """This process is the only driver of the run, as long as this is open; a driver that dies gives the run free.

    Raises: ConfigError if another one has it, both would write the same checkpoints; or if no folder can be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".driver").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"run.dir is {str(folder.parent)!r}: {folder} cannot be written ({error})") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"run.name is {folder.name!r}, and another process is driving the run in {folder}: wait until it has "
                "ended (itercomp status shows how far it is), or choose another run.name"
            ) from error
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): see to it that no second driver runs there", folder, error)
        yield


_MAY_CHANGE = ("actors", "tracking", "store")
