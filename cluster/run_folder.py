"""A run folder that is there: its settings and its store. Needs neither Ray nor torch."""

from pathlib import Path

from omegaconf import OmegaConf

from itercomp_rl.config import config_from
from itercomp_rl.errors import ConfigError
from itercomp_rl.schema import Config
from itercomp_rl.store.store import Store, open_store


def load_run(run_: str | Path) -> tuple[Config, Store]:
    """The config and store of a run folder, or of a run's name under ./runs. Raises: ConfigError if there is none."""
    folder = Path(run_)
    if not (folder / "config.yaml").exists():
        folder = Path("runs") / str(run_)
    file = folder / "config.yaml"
    if not file.exists():
        raise ConfigError(f"{str(run_)!r} is no run: give a run folder, or the name of one under ./runs")
    tree = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(tree, dict)
    tree["run"] |= {"dir": str(folder.absolute().parent), "name": folder.absolute().name}
    config = config_from(tree)
    return config, open_store(config.store_url, durable=config.store.durable)


def load_store(run_or_url: str) -> Store:
    """The store of a run, or the one at a URL. Raises: ConfigError, StoreError."""
    return open_store(run_or_url) if "://" in run_or_url else load_run(run_or_url)[1]
