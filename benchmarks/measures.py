"""How a benchmark writes what it found: one JSON file with measures, the machine and the versions."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS_OF = ("itercomp-rl", "torch", "diffusers", "transformers", "deepspeed")


def measure(
    name: str, value: float, unit: str, *, aim: float | None = None, better: str = "lower", se: float | None = None
) -> dict[str, Any]:
    """One measure; `aim` is what the project wants to reach, None where there is no aim; `se`: its standard error."""
    error = "" if se is None else f" ± {se:.2g}"
    print(f"{name}: {value:.4g}{error} {unit}" + ("" if aim is None else f" (aim {aim:g}, {better} is better)"))
    found = {"name": name, "value": value, "aim": aim, "better": better, "unit": unit}
    return found if se is None else {**found, "se": se}


def write(path: Path, measures: list[dict[str, Any]]) -> None:
    """The file, with where and with what it was measured."""
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.platform()}
    versions = {name: metadata.version(name) for name in VERSIONS_OF}
    path.write_text(
        json.dumps({"measures": measures, "machine": machine, "versions": versions}, indent=2) + "\n", encoding="utf-8"
    )
