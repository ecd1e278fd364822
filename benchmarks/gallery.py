"""Images per second through a sampler actor, into the store, against the same checkpoint called in a bare loop.

python benchmarks/gallery.py --json gallery.json [--checkpoint embedded:base] [--images 96] [--repeats 3]
Also against loading the pipeline for every image, as the official gallery script does. Actor and bare loop take turns,
in one run, with one thread each and the same allocator settings; ratios are medians over turns.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from actors.worker import RoleSpec, Worker, WorkerHandle, WorkerSpec
from cluster.processes import MALLOC, cluster
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.items import DrawOrder, ModelRef, Prompt
from itercomp_rl.plan import Plan
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.software import versions
from itercomp_rl.store.store import open_store

BATCHES = (1, 4, 8)
ROLE = "sampler-0"


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--checkpoint", default="embedded:base")
    parser.add_argument("--images", type=int, default=96, help="Per turn; a multiple of 8.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    if not MALLOC.items() <= os.environ.items():  # read when a process starts: begin again with the actors' settings
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        measures = measure(folder, options.checkpoint, options.images, options.repeats, options.steps)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }
    tree = {"measures": measures, "machine": machine, "versions": versions() | {"python": platform.python_version()}}
    options.json.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    for row in measures:
        print(f"{row['name']:44} {row['value']:9.3f} {row['unit']}" + (f"  (aim {row['aim']})" if row["aim"] else ""))


def measure(folder: str, checkpoint: str, num_images: int, repeats: int, steps: int) -> list[dict[str, Any]]:
    """All measures, as the JSON holds them."""
    config = load_config("quickstart", [f"run.dir={folder}", "actors.threads=1"])
    prompts = tuple(Plan(config=config).gallery_prompts[:num_images])
    text = ModelRef(name="text", checkpoint=checkpoint, num_steps=steps)
    bare, texts = BareLoop(checkpoint, steps), [prompt.text for prompt in prompts]
    bare.draw(texts[:8], 8)
    loading_s = timed(lambda: [BareLoop(checkpoint, steps).draw([one], 1) for one in texts[:8]]) / 8
    measures = [row("bare loop that loads per image, images/s", 1 / loading_s, None)]
    with cluster(None):
        for batch in BATCHES:
            with Actor(config, batch) as actor:
                actor.draw(text, prompts[:8])
                turns = in_turn(partial(actor.draw, text, prompts), partial(bare.draw, texts, batch), repeats)
                rates = [statistics.median(len(prompts) / s for s in side) for side in zip(*turns, strict=True)]
                ratio = statistics.median(bare_s / actor_s for actor_s, bare_s in turns)
                measures += [
                    row(f"sampler actor, batch {batch}, images/s", rates[0], None),
                    row(f"bare loop, batch {batch}, images/s", rates[1], None),
                    row(f"sampler actor / bare loop, batch {batch}", ratio, 0.95, "ratio"),
                    row(f"sampler actor / loading per image, batch {batch}", rates[0] * loading_s, None, "ratio"),
                ]
        measures += planned(config, text, prompts, repeats)
    return measures


def planned(config: Config, text: ModelRef, prompts: tuple[Prompt, ...], repeats: int) -> list[dict[str, Any]]:
    """RPG and Omost by the rule planner, in the actor and in this process."""
    settings = replace(config.gallery, batch=8)
    here = Gallery(open_store("memory://", create=True), settings, torch.device("cpu"))
    texts, seeds = [prompt.text for prompt in prompts], list(range(len(prompts)))
    measures = []
    with Actor(config, 8) as actor:
        for system in ("rpg", "omost"):
            model = replace(text, name=system, system=system, planner="rule")
            actor.draw(model, prompts[:8])
            here.draw(model, texts[:8], seeds[:8])
            turns = in_turn(partial(actor.draw, model, prompts), partial(here.draw, model, texts, seeds), repeats)
            rate = statistics.median(len(prompts) / actor_s for actor_s, _ in turns)
            ratio = statistics.median(here_s / actor_s for actor_s, here_s in turns)
            measures += [
                row(f"{system} through the sampler actor, images/s", rate, None),
                row(f"{system}: sampler actor / in process", ratio, 0.95, "ratio"),
            ]
    return measures


class BareLoop:
    """The diffusers pipeline of the checkpoint in this process, called batch after batch."""

    def __init__(self, checkpoint: str, steps: int) -> None:
        # Any: from_pretrained is declared as returning its base class
        self._pipeline: Any = StableDiffusionPipeline.from_pretrained(checkpoint_path(checkpoint), dtype=torch.float32)
        self._pipeline.scheduler = DDIMScheduler.from_config(self._pipeline.scheduler.config)
        self._pipeline.set_progress_bar_config(disable=True)
        self._steps = steps

    def draw(self, texts: list[str], batch: int) -> None:
        """Images of the texts, thrown away."""
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
            self._pipeline(
                part, num_inference_steps=self._steps, guidance_scale=1.0, generator=generators, output_type="np"
            )


class Actor:
    """One sampler in a process of its own, over a store on the local disk."""

    def __init__(self, config: Config, batch: int) -> None:
        gallery = replace(config.gallery, batch=batch)
        self._config = replace(config, gallery=gallery, run=replace(config.run, name=f"batch-{batch}"))
        self._num_orders = 0

    def __enter__(self) -> "Actor":
        open_store(self._config.store_url, create=True)
        spec = WorkerSpec(label="bench", roles=(RoleSpec(kind="sampler", name=ROLE),), cpus=1, gpus=0)
        self._worker: WorkerHandle = ray.remote(Worker).options(num_cpus=1).remote(spec, self._config)
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._worker)

    def draw(self, model: ModelRef, prompts: tuple[Prompt, ...]) -> None:
        """One order of all prompts, committed."""
        self._num_orders += 1
        order = DrawOrder(
            kind=IMAGES,
            id=f"{model.name}-{self._num_orders:05d}",
            round=0,
            model=model,
            prompts=prompts,
            seeds=tuple(range(len(prompts))),
        )
        ray.get(self._worker.call.remote(ROLE, "draw", (order,)))


def in_turn(first: Callable[[], object], second: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Seconds of both, side by side, so that a busy machine slows both."""
    return [(timed(first), timed(second)) for _ in range(repeats)]


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(name: str, value: float, aim: float | None, unit: str = "images/s") -> dict[str, Any]:
    """One measure of the JSON; more is better for all of these."""
    return {"name": name, "value": value, "aim": aim, "better": "higher", "unit": unit}


if __name__ == "__main__":
    main()
