"""Log lines that say which run, round, role and version they belong to, as text or JSON; secrets are struck out."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("log_context", default={})  # noqa: B039  # never changed in place
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|(ACCESS|ACCOUNT|API)_KEY|KEY(_ID)?$", re.IGNORECASE)
_MIN_SECRET = 8  # a shorter value would strike out ordinary words


@contextmanager
def log_context(**facts: Any) -> Iterator[None]:
    """Every line logged inside (in this thread or task) carries these facts; None leaves a fact out."""
    given = {name: value for name, value in facts.items() if value is not None}
    token = _CONTEXT.set({**_CONTEXT.get(), **given})
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def order_facts(argument: object) -> dict[str, Any]:
    """The round and version that an order for work names."""
    model = getattr(argument, "model", None)
    version = getattr(argument, "version", None)
    return {"round": getattr(argument, "round", None), "version": getattr(model, "version", version)}


def secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of environment variables whose names say that they are secret, longest first."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET}
    return sorted(found, key=len, reverse=True)


class JsonLines(logging.Formatter):
    """One JSON object a line: {"time": ..., "level": ..., "logger": ..., "message": ..., "run": ..., "round": ...}."""

    def __init__(self, **facts: Any) -> None:
        super().__init__()
        self._facts, self._secrets = facts, secrets(os.environ)

    def format(self, record: logging.LogRecord) -> str:
        """As logging asks for it."""
        tree = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._facts,
            **_CONTEXT.get(),
        }
        if record.exc_info:
            tree["error"] = self.formatException(record.exc_info)
        # Before JSON escapes what a secret may hold: quotes, backslashes.
        return json.dumps(
            {key: struck_out(value, self._secrets) if isinstance(value, str) else value for key, value in tree.items()},
            default=str,
        )


class StrikeOut(logging.Filter):
    """For handlers that format lines themselves: secrets are replaced before."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets = secrets(os.environ)

    def filter(self, record: logging.LogRecord) -> bool:
        """As logging asks for it: every line stays."""
        try:
            record.msg, record.args = struck_out(record.getMessage(), self._secrets), ()
        except Exception:  # a line that cannot be formatted: the handler says so, as without this filter
            return True
        if record.exc_info:  # formatters take exc_text where it is there
            record.exc_text = struck_out(logging.Formatter().formatException(record.exc_info), self._secrets)
        return True


class TextLines(logging.Formatter):
    """For people: what was logged, and the facts of its context behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
        self._secrets = secrets(os.environ)

    def format(self, record: logging.LogRecord) -> str:
        """As logging asks for it."""
        context = ", ".join(f"{name} {value}" for name, value in _CONTEXT.get().items())
        return struck_out(super().format(record) + (f" ({context})" if context else ""), self._secrets)


def struck_out(text: str, hidden: list[str]) -> str:
    """The text with every secret replaced by ***."""
    for secret in hidden:
        text = text.replace(secret, "***")
    return text


@contextmanager
def logging_to(path: Path, *, run: str, stderr_too: bool) -> Iterator[None]:
    """While open, the driver's lines also go to `path` as JSON; with `stderr_too` those on stderr are JSON as well."""
    lines = JsonLines(run=run, process="driver")
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(lines)
    root = logging.getLogger()
    root.addHandler(file)
    for handler in root.handlers if stderr_too else ():
        handler.setFormatter(lines)
    try:
        yield
    finally:
        root.removeHandler(file)
        file.close()
