"""Layout systems from an order to the store: checkpoints of their real classes, rule planner, sampler role."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actors.sampler import Sampler
from itercomp_rl.config.load import load_config
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import DrawOrder, ModelRef, Prompt
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store
from tests.parts.layout_checkpoints import instance_state, make_gligen, make_layers, make_sd1

TEXTS = ("a red cup to the left of a blue ball", "a green cat and a dog", "")
PROMPTS = tuple(Prompt(id=f"p{i}", text=text) for i, text in enumerate(TEXTS))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri(), create=True, durable=False)


@pytest.fixture
def sampler(store: Store) -> Sampler:
    settings = replace(load_config("tiny", []).gallery, max_loaded=1, batch=2)
    return Sampler(store, settings, torch.device("cpu"))


def drawn(sampler: Sampler, store: Store, model: ModelRef) -> tuple[np.ndarray, list[dict]]:
    order = DrawOrder(kind="images", id=model.name, round=0, model=model, prompts=PROMPTS, seeds=(1, 2, 3))
    sampler.draw(order)
    found = store.get("images", model.name, ["images", "seeds"])
    assert found.arrays["seeds"].tolist() == [1, 2, 3]
    return found.arrays["images"], found.attrs["notes"]


def check(images: np.ndarray, notes: list[dict]) -> None:
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 3
    assert [box["phrase"] for box in notes[0]["plan"]["boxes"]] == ["a red cup", "a blue ball"]
    assert notes[0]["plan"]["boxes"][0]["right"] <= notes[0]["plan"]["boxes"][1]["left"]
    assert all(note["planner"] == "rule" and note["fallback"] is None for note in notes)


@pytest.mark.parametrize("make", [make_gligen, make_sd1])
def test_lmd_draws_into_the_store(sampler: Sampler, store: Store, tmp_path: Path, make) -> None:
    model = ModelRef(
        name="lmd", checkpoint=str(make(tmp_path / "model")), num_steps=3, guidance=2.0, system="lmd", planner="rule"
    )
    images, notes = drawn(sampler, store, model)
    check(images, notes)
    again = sampler._gallery.draw(model, TEXTS, (1, 2, 3)).images
    assert np.array_equal(again, images)
    plain = sampler._gallery.draw(replace(model, system="text", planner=None), TEXTS, (1, 2, 3)).images
    assert not np.array_equal(plain, images)
    assert len(sampler._gallery.backbones._kept) == 1


def test_instance_diffusion_draws_into_the_store(sampler: Sampler, store: Store, tmp_path: Path) -> None:
    folder = make_sd1(tmp_path / "model")
    unet = load_policy(folder).trainable
    save_file(instance_state(unet, make_layers(unet), original=True), tmp_path / "layers.safetensors")
    model = ModelRef(
        name="instances",
        checkpoint=str(folder),
        num_steps=4,
        guidance=2.0,
        system="instance_diffusion",
        planner="rule",
        grounding=str(tmp_path / "layers.safetensors"),
    )
    plain = replace(model, system="text", planner=None, grounding=None)
    before = sampler._gallery.draw(plain, TEXTS, (1, 2, 3)).images
    images, notes = drawn(sampler, store, model)
    check(images, notes)
    assert np.array_equal(sampler._gallery.draw(model, TEXTS, (1, 2, 3)).images, images)
    assert np.array_equal(sampler._gallery.draw(plain, TEXTS, (1, 2, 3)).images, before)
    assert len(sampler._gallery.backbones._kept) == 1


def layouts_model(folder: Path, system: str) -> ModelRef:
    """A tiny Stable Diffusion 1 that a layout system draws with, and InstanceDiffusion's layers where it needs them."""
    unet = load_policy(make_sd1(folder / "sd1")).trainable
    layers = folder / "sd1-layers.safetensors"
    save_file(instance_state(unet, make_layers(unet), original=True), layers)
    model = ModelRef(
        name="boxes", checkpoint=str(folder / "sd1"), num_steps=3, guidance=2.0, system=system, planner="rule"
    )
    return replace(model, grounding=str(layers)) if system == "instance_diffusion" else model


@pytest.mark.parametrize("system", ["lmd", "instance_diffusion"])
def test_awkward_prompts_are_drawn_by_layout(system: str, sampler: Sampler, tmp_path: Path) -> None:
    prompts = ["a red cup and a blue box " * 72, "cup " * 500, "a dog / on\n\na cat", "twelve dogs and twelve cats", ""]
    model = replace(layouts_model(tmp_path, system), num_steps=2, reference_weight=0.0)
    drawn = sampler._gallery.draw(model, prompts, range(5))
    assert drawn.images.shape == (5, 16, 16, 3)
    assert max(len(note["plan"]["boxes"]) for note in drawn.notes) <= 30


@pytest.mark.parametrize("system", ["lmd", "instance_diffusion"])
def test_the_policy_of_a_run_is_a_backbone_of_layouts_too(
    system: str, sampler: Sampler, store: Store, tmp_path: Path
) -> None:
    model = layouts_model(tmp_path, system)
    learned_state = {n: t + 0.02 for n, t in load_policy(model.checkpoint).trainable.state_dict().items()}
    weights.publish(store, "policy", 0, learned_state, {})
    base = sampler._gallery.draw(model, TEXTS[:1], (1,)).images
    learned = sampler._gallery.draw(replace(model, role="policy", version=0), TEXTS[:1], (1,)).images
    assert not np.array_equal(base, learned)


def test_settings_of_layout_systems_are_checked_before_anything_is_loaded() -> None:
    member = "{model: 'embedded:base', num_steps: 2, system: %s, planner: rule%s}"
    for system, rest, message in (
        ("instance_diffusion", "", r"grounding is None: must name the file"),
        ("instance_diffusion", ", grounding: x, scheduler: ddim", r"scheduler is 'ddim': the system has a scheduler"),
        ("lmd", ", grounding: x", r"grounding is 'x': is for system instance_diffusion alone"),
        ("lmd", ", attention_scale: -1", r"attention_scale is -1.0: must be 0 or more"),
        ("lmd", ", reference_weight: -1", r"reference_weight is -1.0: must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("tiny", [f"gallery.members.boxes={member % (system, rest)}"])
