"""A config run again with something changed, over seeds: what is there is read, what was killed goes on."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.run_folder import load_run
from itercomp_rl.config.load import load_config
from itercomp_rl.plan import Plan
from itercomp_rl.run.reuse import reusable

Variants = Mapping[str, Sequence[str]]  # overrides by name


def result(config: str, variants: Variants, variant: str, seed: int, folder: Path) -> dict[str, Any]:
    """results.json of a variant of a config, run first (or resumed) if `folder` does not hold it."""
    name = f"{variant}-{seed}"
    file = folder / name / "results.json"
    if not file.exists():
        command = [sys.executable, "-m", "cluster.main", "run", config, "--resume"]
        # What makes a policy worse is to be measured, not stopped.
        own = [f"run.name={name}", f"run.dir={folder}", f"run.seed={seed}", "evaluation.max_drop=null"]
        reuse = reuse_of(config, variants, variant, seed, folder)
        subprocess.run([*command, *own, *variants[variant], *reuse], check=True)
    return json.loads(file.read_text(encoding="utf-8"))


def reuse_of(config: str, variants: Variants, variant: str, seed: int, folder: Path) -> list[str]:
    """The option to copy from the finished run of that seed which shares most work with this variant."""
    plan = Plan(config=load_config(config, [f"run.seed={seed}", *variants[variant]]))
    shared: dict[Path, int] = {}
    for other in variants:
        run = folder / f"{other}-{seed}"
        if (run / "results.json").exists() and (run / "config.yaml").exists():
            shared[run] = len(reusable(Plan(config=load_run(run)[0]), plan))
    best = max(shared, key=lambda run: shared[run], default=None)
    return ["--reuse", str(best)] if best and shared[best] else []
