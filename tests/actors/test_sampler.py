"""The sampler role: an order of any system becomes one committed segment, once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.sampler import Sampler
from itercomp_rl.config.schema import GalleryConfig, PlannerConfig
from itercomp_rl.items import DrawOrder, ImageRef, MeasureOrder, ModelRef, Prompt
from itercomp_rl.store.store import Store, open_store
from tests.parts.checkpoints import make_sd, make_sdxl

PROMPTS = tuple(
    Prompt(id=f"p{i}", text=text) for i, text in enumerate(["a red cup left of a blue box", "a dog / on\na cat", ""])
)
MAKERS = {"sd": make_sd, "sdxl": make_sdxl}


def sampler(store: Store) -> Sampler:
    settings = GalleryConfig(
        members={},
        planners={"rule": PlannerConfig(kind="rule"), "down": PlannerConfig(kind="openai", model="m", url=NOBODY)},
        policy_joins=False,
        batch=2,
        segment=3,
        dtype="fp32",
        max_loaded=1,
    )
    return Sampler(store, settings, torch.device("cpu"))


NOBODY = "http://127.0.0.1:1/v1"


def order(checkpoint: Path, system: str, planner: str | None) -> DrawOrder:
    model = ModelRef(name=system, checkpoint=str(checkpoint), num_steps=2, guidance=2.0, system=system, planner=planner)
    return DrawOrder(kind="images", id="drawn-00000", round=0, model=model, prompts=PROMPTS, seeds=(1, 2, 3))


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize(("system", "planner"), [("text", None), ("rpg", "rule"), ("omost", "rule")])
def test_a_system_draws_through_the_sampler_into_the_store(
    system: str, planner: str | None, family: str, tmp_path: Path
) -> None:
    store = open_store("memory://", create=True)
    asked = order(MAKERS[family](tmp_path), system, planner)
    sampler(store).draw(asked)
    record = store.get("images", asked.id)
    assert record.arrays["images"].shape == (3, 16, 16, 3)
    assert record.arrays["seeds"].tolist() == [1, 2, 3]
    assert record.attrs["system"] == system
    assert [prompt["text"] for prompt in record.attrs["prompts"]] == [prompt.text for prompt in PROMPTS]
    assert len(record.attrs["notes"]) == 3
    if planner:
        assert [note["plan"]["prompt"] for note in record.attrs["notes"]] == [prompt.text for prompt in PROMPTS]
        assert [note["fallback"] for note in record.attrs["notes"]] == [None] * 3


def test_a_planner_s_fall_back_is_committed_beside_each_image(tmp_path: Path) -> None:
    store, checkpoint = open_store("memory://", create=True), make_sd(tmp_path)
    planners = {"down": PlannerConfig(kind="openai", model="m", url=NOBODY, max_retries=0, timeout_s=1.0)}
    settings = GalleryConfig(
        members={}, planners=planners, policy_joins=False, batch=4, segment=3, dtype="fp32", max_loaded=1
    )
    Sampler(store, settings, torch.device("cpu")).draw(order(checkpoint, "rpg", "down"))
    notes = store.get("images", "drawn-00000", []).attrs["notes"]
    assert all(NOBODY in note["fallback"] for note in notes)
    assert [note["planner"] for note in notes] == ["down"] * 3


def test_what_is_committed_is_not_drawn_again(tmp_path: Path) -> None:
    store, checkpoint = open_store("memory://", create=True), make_sd(tmp_path)
    drawing = sampler(store)
    drawing.draw(order(checkpoint, "text", None))
    first = store.commits("images")
    drawing.draw(order(tmp_path / "nowhere", "text", None))  # would fail if it were drawn
    assert store.commits("images") == first
    assert np.any(store.get("images", "drawn-00000").arrays["images"])


def test_a_policy_is_measured_once_on_what_was_drawn(tmp_path: Path) -> None:
    store, checkpoint = open_store("memory://", create=True), make_sd(tmp_path)
    role = sampler(store)
    drawn = order(checkpoint, "text", None)
    role.draw(replace(drawn, kind="evaluations"))
    asked = MeasureOrder(
        id="test-policy-0",
        round=0,
        model=drawn.model,
        prompts=PROMPTS,
        seeds=(4, 5, 6),
        source="files",
        images=tuple(ImageRef(segment=drawn.id, row=row) for row in range(3)),
    )
    role.measure(asked)
    record = store.get("losses", asked.id)
    assert [row["prompt"] for row in record.attrs["rows"]] == [prompt.id for prompt in PROMPTS]
    assert all(row["loss"] > 0 for row in record.attrs["rows"])
    role.measure(replace(asked, images=()))  # would fail if it were measured again
    assert store.get("losses", asked.id).attrs == record.attrs
