"""Canvas programs, sub-prompt bags, masked attention and the DPM++ 2M sampler against what Omost's code computes."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from itercomp_rl.errors import PlanError
from itercomp_rl.gallery.karras import dpmpp_2m, karras_sigmas, nearest_timestep
from itercomp_rl.gallery.omost.canvas_attention import CanvasAttention, CanvasBank
from itercomp_rl.gallery.omost.system import painted
from itercomp_rl.gallery.planning.canvas import Condition, parse_canvas, sub_prompts
from tests.parts.recorded import attention_of


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "omost"


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "canvas.json").read_text())["cases"]


def count(text: str) -> int:
    """Tokens by the rule that the recording states."""
    return len(re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()))


def test_programs_are_read_as_recorded(cases: list[dict[str, Any]]) -> None:
    sound = [case for case in cases if "official_error" not in case]
    assert sound
    for case in sound:
        canvas = parse_canvas("a prompt", case["text"])
        whole = case["global"]
        assert list(canvas.colour) == whole["color"]
        assert ([canvas.description], list(canvas.details)) == (whole["prefixes"], whole["suffixes"])
        for part, recorded in zip(canvas.parts, case["components_in_order_written"], strict=True):
            assert list(part.rect) == recorded["rect"]
            assert list(part.colour) == recorded["color"]
            assert part.distance == recorded["distance_to_viewer"]
            assert [canvas.description, part.description] == recorded["prefixes"]
            assert list(part.details) == recorded["suffixes"]
        assert [part.description for part in canvas.far_first] == case["order_after_sort"]
        assert [list(part.rect) for part in canvas.far_first] == case["rects_after_sort"]


def test_programs_that_the_reference_refuses_are_refused(cases: list[dict[str, Any]]) -> None:
    broken = [case for case in cases if "official_error" in case]
    assert broken
    for case in broken:
        with pytest.raises(PlanError):
            parse_canvas("a prompt", case["text"])


def test_the_painted_canvas_is_as_recorded(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        if "official_error" not in case:
            image = painted(parse_canvas("a prompt", case["text"]))
            for row, column, colour in case["initial_latent_samples"]:
                assert image[row, column].tolist() == colour
            assert zlib.crc32(image.tobytes()) == case["initial_latent_uint8_crc32"]


def test_sub_prompts_are_packed_as_recorded(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        if "official_error" not in case:
            conditions = parse_canvas("a prompt", case["text"]).conditions()
            for condition, recorded in zip(conditions, case["conditions"], strict=True):
                top, bottom, left, right = condition.rect
                assert [top, bottom, left, right] == recorded["mask_bbox"]
                assert (bottom - top) * (right - left) == recorded["mask_sum"]
                expected = [" ".join([*recorded["prefixes"], *bag]) for bag in recorded["bags"]]
                assert sub_prompts(condition, count, 75) == expected


def test_sub_prompts_are_packed_as_recorded_with_clip_s_own_lengths(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        for condition, recorded in zip(_conditions(case), case.get("conditions", ()), strict=True):
            told = recorded.get("clip_bpe")
            if told is None:
                continue
            texts = [*recorded["prefixes"], *recorded["suffixes"]]
            lengths = dict(zip(texts, [*told["lengths_prefixes"], *told["lengths_suffixes"]], strict=True))
            bags = recorded["bags"] if told["bags"] == "same as bags" else told["bags"]
            expected = [" ".join([*recorded["prefixes"], *bag]) for bag in bags]
            assert sub_prompts(condition, lengths.__getitem__, 75) == expected
            assert len(expected) == told["number_of_bags"]


def _conditions(case: dict[str, Any]) -> tuple[Condition, ...]:
    return () if "official_error" in case else parse_canvas("a prompt", case["text"]).conditions()


def masked(tensors: dict[str, torch.Tensor], recorded: dict[str, Any], case: dict[str, Any]) -> torch.Tensor:
    number = case["case"]
    hidden, masks = tensors[f"{number}.hidden_states"], tensors[f"{number}.masks"]
    conds = [tensors[f"{number}.cond.{i}"] for i in range(len(masks))]
    bank = CanvasBank(
        conditions=[
            [(mask.bool(), cond[row]) for mask, cond in zip(masks, conds, strict=True)] for row in range(len(hidden))
        ],
        first_row=0,
        latent_hw=(case["H"], case["W"]),
    )
    attention = attention_of(tensors, recorded)
    attention.set_processor(CanvasAttention(bank))
    with torch.no_grad():
        return attention(hidden, encoder_hidden_states=torch.zeros_like(conds[0]))


def test_masked_attention_is_as_recorded(folder: Path) -> None:
    recorded = json.loads((folder / "attention.json").read_text())
    tensors = load_file(folder / "attention.safetensors")
    for case in recorded["cases"]:
        torch.testing.assert_close(
            masked(tensors, recorded, case), tensors[f"{case['case']}.output"], atol=5e-5, rtol=0
        )


def _has_part(masks: torch.Tensor) -> bool:
    return any(not torch.equal(mask, mask.roll(30, dims=-1)) for mask in masks[1:])


def test_a_moved_mask_is_noticed(folder: Path) -> None:
    recorded = json.loads((folder / "attention.json").read_text())
    tensors = load_file(folder / "attention.safetensors")
    # A case with a part that does not fill its rows: moved sideways, it is another.
    case = next(case for case in recorded["cases"] if _has_part(tensors[f"{case['case']}.masks"]))
    name = f"{case['case']}.masks"
    tensors[name] = torch.cat([tensors[name][:1], tensors[name][1:].roll(30, dims=-1)])
    assert (masked(tensors, recorded, case) - tensors[f"{case['case']}.output"]).abs().max() > 1e-3


def test_sigmas_timesteps_and_a_whole_run_are_as_recorded(folder: Path) -> None:
    tensors = load_file(folder / "sampler.safetensors")
    sigmas_T = tensors["log_sigmas"].double().exp()
    for name, recorded in tensors.items():
        if name.startswith("karras_sigmas_"):
            torch.testing.assert_close(
                karras_sigmas(sigmas_T, int(name.rsplit("_", 1)[1])).float(), recorded, rtol=1e-5, atol=1e-6
            )
    found = [nearest_timestep(sigmas_T, float(sigma)) for sigma in tensors["sigma_for_timestep"]]
    assert found == tensors["timestep_of_sigma"].tolist()

    def toy(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.tanh(0.3 * x) * 0.5 + 0.1 * sigma / (1 + sigma)

    out = dpmpp_2m(toy, tensors["sampler.x"], tensors["sampler.sigmas"].double())
    torch.testing.assert_close(out, tensors["sampler.out"], rtol=1e-5, atol=1e-5)
