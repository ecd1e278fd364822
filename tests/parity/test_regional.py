"""Split ratios and region-wise cross-attention against what RPG's code computes."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.planning.regions import split_cells
from itercomp_rl.gallery.rpg.region_attention import RegionAttention, RegionBank
from tests.parts.recorded import attention_of


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "regional"


def test_split_ratios_make_the_recorded_cells(folder: Path) -> None:
    cases = json.loads((folder / "ratios.json").read_text())["cases"]
    assert cases
    for case in cases:
        if "official_error" in case:
            with contextlib.suppress(PlanError):
                assert split_cells(case["split_ratio"]) == [[(0.0, 1.0, 0.0, 1.0)]]
            continue
        found = [
            [number for top, bottom, left, right in row for number in (top, bottom, left, right)]
            for row in split_cells(case["split_ratio"], case["regions"])
        ]
        recorded = [
            [number for left, right in row["cells"] for number in (*row["row"], left, right)] for row in case["rows"]
        ]
        assert [len(row) for row in found] == [len(row) for row in recorded], case["split_ratio"]
        for mine, theirs in zip(found, recorded, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9), case["split_ratio"]


def composed(tensors: dict[str, torch.Tensor], recorded: dict[str, Any], layout: dict[str, Any]) -> torch.Tensor:
    case, length = layout["case"], recorded["tokens_per_block"]
    hidden, blocks = tensors[f"{case}.hidden_states"], tensors[f"{case}.encoder_hidden_states"].split(length, dim=1)
    regions = blocks[1:] if layout["use_base"] else blocks
    cells = [cell for row in split_cells(layout["split_ratio"], len(regions)) for cell in row]
    bank = RegionBank(
        rows=torch.arange(len(hidden)).repeat_interleave(len(cells)),
        tokens=torch.stack([region[row] for row in range(len(hidden)) for region in regions]),
        cells=cells * len(hidden),
        base_ratio=layout["base_ratio"] if layout["use_base"] else 0.0,
        latent_hw=(layout["latent_h"], layout["latent_w"]),
    )
    attention = attention_of(tensors, recorded)
    attention.set_processor(RegionAttention(bank))
    with torch.no_grad():
        return attention(hidden, encoder_hidden_states=blocks[0])


def test_composed_attention_is_as_recorded(folder: Path) -> None:
    recorded = json.loads((folder / "layouts.json").read_text())
    tensors = load_file(folder / "attention.safetensors")
    for layout in recorded["layouts"]:
        found = composed(tensors, recorded, layout)
        torch.testing.assert_close(found, tensors[f"{layout['case']}.output"], atol=2e-5, rtol=0)


def test_regions_in_the_wrong_order_are_noticed(folder: Path) -> None:
    recorded = json.loads((folder / "layouts.json").read_text())
    tensors = load_file(folder / "attention.safetensors")
    layout = next(layout for layout in recorded["layouts"] if layout["blocks"] > 1)
    name = f"{layout['case']}.encoder_hidden_states"
    tensors[name] = tensors[name].roll(recorded["tokens_per_block"], dims=1)
    found = composed(tensors, recorded, layout)
    assert (found - tensors[f"{layout['case']}.output"]).abs().max() > 1e-3
