"""Reading a run's settings: base.yaml, a file over it, overrides over that; impossible ones stop here.

Imports neither torch nor ray: a wrong config fails at once.
"""

import difflib
import re
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itercomp_rl.config.judging_sources import self_grading
from itercomp_rl.config.rules.check import check
from itercomp_rl.config.schema import Config, FrozenRewardConfig, ImageEndpointConfig, MemberConfig, PlannerConfig
from itercomp_rl.config.text_settings import check_texts, is_text
from itercomp_rl.errors import ConfigError


def preset(name: str) -> Path:
    """The shipped config `name` ("quickstart"), from a checkout or an installed package."""
    checkout = Path(__file__).resolve().parents[2] / "configs"
    folder = checkout if checkout.is_dir() else Path(str(resources.files("itercomp_rl") / "presets"))
    return folder / f"{name}.yaml"


def load_config(file: str | Path, overrides: list[str] | None = None) -> Config:
    """base.yaml, then `file`, then dotlist overrides ("policy.updates=10"), checked.

    Raises: ConfigError naming the key, the value and the way out.
    """
    path = Path(file)
    if not path.exists() and path.suffix == "" and preset(str(file)).exists():
        path = preset(str(file))
    if not path.is_file():
        raise ConfigError(f"config {str(file)!r} does not exist: give a YAML file or one of {', '.join(_presets())}")
    base = _read(preset("base"))
    own = _read(path)
    _known(OmegaConf.to_container(own), Config, "", str(path))
    check_texts(OmegaConf.to_container(own), str(path), path.read_text(encoding="utf-8"))
    if OmegaConf.select(own, "gallery.members") is not None:
        OmegaConf.update(base, "gallery.members", {}, merge=False)  # a file's gallery replaces the base's
    merged = _merge(base, own, str(path))
    for text in overrides or []:
        merged = _merge(merged, _override(text), f"override {text!r}")
    try:
        tree = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:  # an interpolation, ${...}, of what there is not
        raise ConfigError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from error
    return config_from(tree)


def _override(text: str) -> DictConfig:
    """The tree of "key=value": text as it was typed, save null, and all else as YAML."""
    if "=" not in text or text.startswith(("+", "-", "~")):
        raise ConfigError(f"override {text!r} is not of the form key=value, such as policy.updates=10")
    key, _, value = text.partition("=")
    steps = re.sub(r"\[([^][]*)\]", r".\1", key).split(".")
    try:
        if not is_text(steps):
            return OmegaConf.from_dotlist([text])
        tree: Any = None if value == "null" else value
        for step in reversed(steps):
            tree = {step: tree}
        return OmegaConf.create(tree)
    except Exception as error:  # OmegaConf raises PyYAML's own classes here
        raise ConfigError(f"override {text!r} cannot be read: {error}") from error


def config_of_run(file: Path) -> Config:
    """The checked config that a run of this or earlier software wrote.

    Keys that have another name by now are renamed, and those that did not exist then have base.yaml's values, which
    change nothing. Raises: ConfigError for a file that cannot be read or holds an unknown key.
    """
    written = _read(file)
    for old, new in _RENAMED.items():
        if (value := OmegaConf.select(written, old)) is not None:
            OmegaConf.update(written, new, value)
            section, _, key = old.rpartition(".")
            del OmegaConf.select(written, section)[key]
    tree = OmegaConf.to_container(written)
    assert isinstance(tree, dict)
    _known(tree, Config, "", str(file))
    check_texts(tree, str(file), file.read_text(encoding="utf-8"))
    base = OmegaConf.to_container(_read(preset("base")))
    filled = _filled(tree, base, "")
    is_older = OmegaConf.select(written, "evaluation.allow_self_grading") is None
    if is_older and self_grading(_structured(filled)):  # begun before this was refused
        filled["evaluation"]["allow_self_grading"] = True
    return config_from(filled)


def _filled(tree: dict[Any, Any], base: Any, prefix: str) -> dict[Any, Any]:
    """The tree with what it lacks from base; under an open key its entries are kept as they are."""
    if prefix in _OPEN:
        return tree
    filled = dict(base)
    for key, value in tree.items():
        name, below = f"{prefix}.{key}" if prefix else str(key), base.get(key)
        filled[key] = _filled(value, below, name) if isinstance(value, dict) and isinstance(below, dict) else value
    return filled


def config_from(tree: Any) -> Config:
    """A checked Config from a plain tree that states every key."""
    config = _structured(tree)
    check(config)
    return config


def _structured(tree: Any) -> Config:
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(tree)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, Config)
    return config


def to_tree(config: Config) -> dict[str, Any]:
    """The plain tree of a config, for JSON and YAML."""
    tree = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _presets() -> list[str]:
    return sorted(path.stem for path in preset("base").parent.glob("*.yaml") if path.stem != "base")


def _read(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except Exception as error:  # PyYAML's errors and OSError alike: all mean the file cannot be read
        raise ConfigError(f"config {str(path)!r} cannot be read: {error}") from error
    if isinstance(tree, ListConfig):
        raise ConfigError(f"config {str(path)!r} is a list; it must be a mapping such as 'run: {{name: first}}'")
    return tree


# Under these keys a file names new entries; everywhere else a key unknown to base.yaml is a mistake.
_OPEN = {
    "gallery.members": MemberConfig,
    "gallery.endpoints": ImageEndpointConfig,
    "gallery.planners": PlannerConfig,
    "policy.frozen_rewards": FrozenRewardConfig,
}


# Keys of earlier versions that people may have in their files, and what they are called now.
_RENAMED = {
    "policy.sampler": "policy.scheduler",
    "actors.max_set_aside": "actors.max_skipped_prompts",
}


def _merge(base: DictConfig, extra: Any, where: str) -> DictConfig:
    tree = OmegaConf.to_container(extra)
    _known(tree, Config, "", where)
    check_texts(tree, where)
    merged = OmegaConf.merge(base, extra)
    assert isinstance(merged, DictConfig)
    return merged


def _known(tree: Any, schema: Any, prefix: str, where: str) -> None:
    if not isinstance(tree, dict):
        if is_dataclass(schema):
            raise ConfigError(
                f"{where}: {prefix} is {tree!r}; it must be a mapping with {', '.join(f.name for f in fields(schema))}"
            )
        return
    names = {f.name: f.type for f in fields(schema)}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name in _RENAMED:
            raise ConfigError(f"{where}: {name} is called {_RENAMED[name]} now: rename it")
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {prefix + '.' if prefix else ''}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key {name}; {hint}")
        if name in _OPEN and isinstance(value, dict):
            for entry, content in value.items():
                _known(content, _OPEN[name], f"{name}.{entry}", where)
        elif is_dataclass(names[key]):
            _known(value, names[key], name, where)
