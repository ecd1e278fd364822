"""Runs of one round with a tiny random checkpoint of any policy family, as real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.run_folder import load_run
from itercomp_rl.store import weights
from tests.parts.checkpoints import make_flux, make_sd, make_sd3, make_sdxl

MAKERS = {"sd": make_sd, "sdxl": make_sdxl, "sd3": make_sd3, "flux": make_flux}


ENGINES = {"plain": ("plain", 0), "zero1": ("deepspeed", 1), "zero3": ("deepspeed", 3)}


CONFIG = """
run: {{name: {name}, rounds: 1}}
store: {{durable: false}}
prompts:
  gallery: 24
  policy: 8
  aspects: [attribute, spatial]
  world:
    colours: [red, green, blue, yellow]
    shapes: [circle, square, triangle]
    relations: [and, left, right, above, below]
gallery:
  segment: 24
  members:
    # Random networks draw noise, which the oracle cannot tell apart: the pairs come from models that draw.
    first: {{model: "embedded:base", num_steps: 4}}
    second: {{model: "embedded:spatial", num_steps: 4}}
judge: {{margin: 0.0}}
reward: {{updates: 2, batch: 4, on_bad_reward: drop, held_out: 0.5, min_accuracy: 0.0}}
policy:
  model: "{model}"
  size_px: 32               # the oracle's
  scheduler: {scheduler}
  lora: {{rank: {rank}, alpha: 4}}
  num_steps: 4
  mid_low: 1
  mid_high: 3
  points_per_rollout: 2
  updates: 2
  batch: 4
  rollout_batch: 2
  checkpoint_every: 1
  pretraining_batch: 2
  gradient_checkpointing: {recompute}
  engine: {{kind: {kind}, zero_stage: {stage}, ema: 0.5}}
actors:
  layout: shared
  start_timeout_s: 600
  policy_learners: {{count: 2}}
evaluation: {{images_per_aspect: 2, grid_prompts: 2}}
"""


def run_family(folder: Path, family: str, mode: str, engine: str, overrides: Sequence[str] = ()) -> Path:
    """A run of one round; returns its folder."""
    kind, stage = ENGINES[engine]
    text = CONFIG.format(
        name=f"{family}-{mode}-{engine}",
        model=MAKERS[family](folder / "model"),
        scheduler="ddpm" if family in ("sd", "sdxl") else "renoise",
        rank=2 if mode == "lora" else 0,
        recompute=str(engine == "zero1").lower(),
        kind=kind,
        stage=stage,
    )
    (folder / "config.yaml").write_text(text)
    command = [
        sys.executable,
        "-m",
        "cluster.main",
        "run",
        str(folder / "config.yaml"),
        f"run.dir={folder}",
        *overrides,
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / f"{family}-{mode}-{engine}"


def check_run(folder: Path, mode: str) -> None:
    """What was published is what should have moved, it moved, and it was drawn with and graded."""
    _, store = load_run(str(folder))
    learned = weights.open_version(store, "policy", 0).load()
    attrs = weights.open_version(store, "policy", 0).attrs
    assert all(bool(tensor.isfinite().all()) for tensor in learned.values())
    assert all((".lora_" in name) == (mode == "lora") for name in learned)
    if mode == "lora":
        assert attrs["lora"]["rank"] == 2
        up = [tensor for name, tensor in learned.items() if ".lora_B." in name]
        assert up
        assert any(bool(tensor.abs().max() > 0) for tensor in up), "an adapter starts at 0 and must have left it"
    else:
        assert attrs["lora"] is None
    results = json.loads((folder / "results.json").read_text())
    assert results["aspects"]["attribute"]["rounds"][0]["n"] >= 2
    names = {json.loads(line)["name"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert {"policy/refl_loss", "policy/denoising_loss"} <= names
