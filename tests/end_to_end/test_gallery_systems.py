"""Every gallery system on a tiny random checkpoint of its real class, through a sampler actor into the store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import save_file

from actors.worker import RoleSpec, WorkerSpec
from cluster.processes import cluster, places, start_workers
from itercomp_rl.config.load import load_config
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.items import DrawOrder, ModelRef, Prompt
from itercomp_rl.store.store import open_store
from tests.parts.checkpoints import make_flux, make_pixart, make_sd3, make_sdxl
from tests.parts.layout_checkpoints import instance_state, make_gligen, make_layers, make_sd1

pytestmark = pytest.mark.slow

TEXTS = ("a red cup to the left of a blue ball", "a dog / on\na cat", "")
SAMPLER = RoleSpec(kind="sampler", name="sampler-0")


def models_of(folder: Path) -> list[ModelRef]:
    """Text on each family and one more pipeline, then the systems that draw by plan."""
    sd1, sdxl, gligen = make_sd1(folder / "sd1"), make_sdxl(folder / "sdxl"), make_gligen(folder / "gligen")
    unet = load_policy(sd1).trainable
    save_file(instance_state(unet, make_layers(unet), original=True), folder / "layers.safetensors")
    text = ModelRef(name="sd15", checkpoint=str(sd1), num_steps=3, guidance=2.0)
    xl = replace(text, name="sdxl", checkpoint=str(sdxl))
    planned = replace(xl, planner="rule")
    return [
        text,
        replace(
            text,
            name="instances",
            system="instance_diffusion",
            planner="rule",
            grounding=f"{folder}/layers.safetensors",
        ),
        replace(text, name="boxes", system="lmd", planner="rule"),
        xl,
        replace(planned, name="rpg", system="rpg"),
        replace(planned, name="omost", system="omost", scheduler="dpmpp_2m_karras"),
        replace(planned, name="gligen", system="lmd", checkpoint=str(gligen)),
        replace(text, name="sd3", checkpoint=str(make_sd3(folder / "sd3"))),
        replace(text, name="flux", checkpoint=str(make_flux(folder / "flux")), size_px=16),
        replace(text, name="pixart", checkpoint=str(make_pixart(folder / "pixart"))),
    ]


def order_of(model: ModelRef) -> DrawOrder:
    prompts = tuple(Prompt(id=f"p{i}", text=text) for i, text in enumerate(TEXTS))
    return DrawOrder(kind="images", id=f"{model.name}-00000", round=0, model=model, prompts=prompts, seeds=(1, 2, 3))


def test_every_system_draws_through_a_sampler_actor_into_the_store(tmp_path: Path) -> None:
    config = load_config("tiny", [f"run.dir={tmp_path}", "gallery.max_loaded=2", "gallery.batch=2"])
    store = open_store(config.store_url, create=True, durable=False)
    models = models_of(tmp_path)
    here = Gallery(store, replace(config.gallery, max_loaded=1), torch.device("cpu"))
    expected = {model.name: here.draw(model, TEXTS, (1, 2, 3)).images.astype(int) for model in models}
    spec = WorkerSpec(label="sampler-0", roles=(SAMPLER,), cpus=1, gpus=0)
    with cluster(None), places(config, [spec]) as options:
        worker = start_workers(config, [spec], options)["sampler-0"]
        for model in models:
            ray.get(worker.call.remote(SAMPLER.name, "draw", (order_of(model),)))
            if model.name in ("sd15", "sdxl"):  # the systems that come next must share what is in memory
                Path(model.checkpoint).rename(f"{model.checkpoint}-gone")
    for model in models:
        record = store.get("images", f"{model.name}-00000")
        assert record.attrs["system"] == model.system
        assert np.abs(record.arrays["images"] - expected[model.name]).max() <= 1, model.name
        notes = record.attrs["notes"]
        assert [bool(note) for note in notes] == [model.system != "text"] * 3
        assert all(note["planner"] == "rule" and note["fallback"] is None for note in notes if note)
