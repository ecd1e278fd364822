"""What a rule is made of: a setting, its value and what holds of it."""

from itercomp_rl.errors import ConfigError


def require(holds: bool, key: str, value: object, rule: str) -> None:
    """Raises: ConfigError that names the setting, its value and the rule, unless it holds."""
    if not holds:
        raise ConfigError(f"{key} is {value!r}: {rule}")


def one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    """Raises: ConfigError that lists what the setting may be, if it is none of these."""
    require(value in known, key, value, f"must be one of {', '.join(known)}")


def check_side(key: str, side: int | None) -> None:
    """Raises: ConfigError if this can be no image's side."""
    require(side is None or side >= 8, key, side, "must be 8 or more, or null for the checkpoint's own")
