"""The attention energy of LMD+ and its gradient, against recordings of the official code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from itercomp_rl.gallery.lmd.attention_energy import Energy, attention_energy, box_mask, reference_energy
from itercomp_rl.gallery.planning.layout import Box

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def told(parity_dir: Path) -> dict[str, Any]:
    return json.loads((parity_dir / "lmd" / "energy.json").read_text())


@pytest.fixture(scope="module")
def recorded(parity_dir: Path) -> dict[str, Tensor]:
    return load_file(parity_dir / "lmd" / "energy.safetensors")


def energy_of(settings: dict[str, Any]) -> Energy:
    if settings["use_ratio_based_loss"]:
        return Energy(form="share")
    return Energy(
        inside_top=settings["fg_top_p"],
        outside_top=settings["bg_top_p"],
        inside_weight=settings["fg_weight"],
        outside_weight=settings["bg_weight"],
    )


def total_energy(
    case: dict[str, Any], maps: list[Tensor], sizes: list[tuple[int, int]], io: dict[str, Tensor]
) -> Tensor:
    corners = ("left", "top", "right", "bottom")
    objects = [[Box(phrase="it", **dict(zip(corners, box, strict=True))) for box in boxes] for boxes in case["boxes"]]
    masks = [[box_mask(boxes, *size) for boxes in objects] for size in sizes]
    energy = attention_energy(maps, masks, case["token_positions"], energy_of(case["settings"]))
    if case["reference"] is None:
        return energy
    references = [
        [[io[f"{case['case']}.ref.{o}.{b}.{m}"][0, :, :, 0] for m in range(len(maps))] for b in range(len(boxes))]
        for o, boxes in enumerate(objects)
    ]
    words = [positions[-1] for positions in case["token_positions"]]
    distance = reference_energy(maps, objects, words, references, sizes, eps=case["reference"]["eps"])
    return energy + case["reference"]["weight"] * distance


def test_energies_and_gradients_are_the_recorded_ones(told: dict[str, Any], recorded: dict[str, Tensor]) -> None:
    sizes = [(side, side) for side in told["map_sizes"]]
    for case in told["cases"]:
        number = case["case"]
        leaves = [recorded[f"{number}.attn.{m}"].clone().requires_grad_() for m in range(len(sizes))]
        energy = total_energy(case, [leaf[0] for leaf in leaves], sizes, recorded)
        torch.testing.assert_close(energy.detach(), recorded[f"{number}.loss"], rtol=0, atol=TOLERANCE)
        for m, gradient in enumerate(torch.autograd.grad(energy, leaves)):
            torch.testing.assert_close(gradient, recorded[f"{number}.grad.{m}"], rtol=0, atol=TOLERANCE)


def test_a_box_of_another_size_is_noticed(told: dict[str, Any], recorded: dict[str, Tensor]) -> None:
    sizes = [(side, side) for side in told["map_sizes"]]
    case = next(case for case in told["cases"] if case["reference"] is None)
    left, top, right, bottom = case["boxes"][0][0]
    other = [0.0, 0.0, 1.0, 1.0] if (right - left) * (bottom - top) < 0.5 else [0.0, 0.0, 0.3, 0.3]
    moved = {**case, "boxes": [[other], *case["boxes"][1:]]}
    maps = [recorded[f"{case['case']}.attn.{m}"][0] for m in range(len(sizes))]
    assert abs(float(total_energy(moved, maps, sizes, recorded)) - case["loss"]) > 100 * TOLERANCE
