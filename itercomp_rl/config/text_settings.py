"""Settings that are text: kept as typed on the command line, and refused in a file where YAML reads something else.

YAML 1.1 reads 2024_10_07, 010, 12:30 and 1e3 as numbers, and no as false, so that a run would get another name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import yaml
from omegaconf import MISSING

from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError

# Text that is "all" or a whole number.
_ALL_OR_NUMBER = ("reward.rankings_first", "policy.reward_updates_first")


def is_text(steps: Sequence[str]) -> bool:
    """Whether the setting at a key, given as its steps ("run", "name"), is text or may be null."""
    schema: Any = Config  # Any: a type of the schema, of which dict[str, str] is one
    for step in steps:
        schema = _below(schema, step) if get_origin(schema) is not list else None
    return schema is str


def check_texts(tree: Any, where: str, source: str = "") -> None:
    """Raises: ConfigError if a text setting of a tree from YAML is a number, a truth value or ???, as it has no quotes.

    Args: where: the tree is from, for the message; source: the YAML itself, to name the line.
    """
    for key, steps, value in _texts(tree, Config, ()):
        if value == MISSING:
            raise ConfigError(f"{where}: {key} is {MISSING}, which stands for a missing value: give another one")
        is_number_allowed = key in _ALL_OR_NUMBER and type(value) is int
        if not isinstance(value, bool | int | float) or is_number_allowed:
            continue
        kind = "truth value" if isinstance(value, bool) else "number"
        node = _node(source, steps)
        if node is None:
            raise ConfigError(f"{where}: {key} is {value!r}, which YAML reads as a {kind}: put text in quotes")
        raise ConfigError(
            f"{where}, line {node.start_mark.line + 1}: {key} is {node.value}, which YAML reads as the {kind} {value}: "
            f'put text in quotes, "{node.value}"'
        )


def _below(schema: Any, step: Any) -> Any:  # Any: types of the schema, None where it has no such key
    """The type of one key or entry of a type, without the None that it may be instead."""
    if is_dataclass(schema):
        found = next((field.type for field in fields(schema) if field.name == step), None)
    else:
        found = get_args(schema)[-1] if get_origin(schema) in (dict, list) else None
    if isinstance(found, UnionType):
        (found,) = (kind for kind in get_args(found) if kind is not NoneType)
    return found


def _texts(tree: Any, schema: Any, steps: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """What the schema has as text: its key, its steps (of the name of an entry: none), and what YAML made of it."""
    key = ".".join(map(str, steps))
    if schema is str:
        yield key, steps, tree
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in entries:
        if get_origin(schema) is dict:
            yield f"a name in {key}", (), step
        yield from _texts(value, _below(schema, step), (*steps, step))


def _node(source: str, steps: Sequence[Any]) -> yaml.ScalarNode | None:
    """Where the YAML has the scalar; None if it has none there, as it comes from an anchor."""
    node = yaml.compose(source, Loader=yaml.SafeLoader)
    for step in steps:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == str(step)), None)
    return node if isinstance(node, yaml.ScalarNode) else None
