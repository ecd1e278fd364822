"""InstanceDiffusion's parts, number by number against recordings of the official code on random weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from itercomp_rl.diffusion.denoise import Diffusion
from itercomp_rl.gallery.instance_diffusion.denoiser import gate_scales, multi_instance_sample, plms_timesteps
from itercomp_rl.gallery.instance_diffusion.layers import GatedSelfAttention, ScaleU
from itercomp_rl.gallery.instance_diffusion.unifusion import Instances, UniFusion, fourier_features


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "instance"


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_fourier_features_are_the_recorded_ones(folder: Path) -> None:
    io = load_file(folder / "fourier.safetensors")
    for key in [key.removesuffix(".in") for key in io if key.endswith(".in")]:
        values, expected = io[f"{key}.in"], io[f"{key}.out"]
        num_frequencies = expected.shape[-1] // (2 * values.shape[-1])
        assert_near(fourier_features(values, num_frequencies), expected, 2e-6)


def unifusion_of(told: dict[str, Any], io: dict[str, Tensor], state: str) -> UniFusion:
    model = UniFusion(
        in_dim=told["in_dim"],
        out_dim=told["out_dim"],
        mid_dim=told["mid_dim"],
        with_masks=told["train_add_masks"],
        joint=state == "joint",
    )
    prefix = f"state.{state}."
    model.load_state_dict({key.removeprefix(prefix): t for key, t in io.items() if key.startswith(prefix)})
    return model.eval()


def instances_of(case: dict[str, Any], io: dict[str, Tensor]) -> Instances:
    """The official drop flags as weights; scribbles are dropped unless asked for, and points default to box centres."""
    get = {key.split(".", 1)[1]: tensor for key, tensor in io.items() if key.startswith(f"{case['case']}.")}
    options, filled, boxes = case["options"], get["masks"], get["boxes"]
    drawn = ((get["scribbles"].sum(dim=-1) + filled) > 0).float()
    nothing = torch.zeros_like(filled)
    return Instances(
        text=get["positive_embeddings"],
        filled=filled,
        boxes=boxes,
        has_boxes=nothing if options.get("test_drop_boxes", False) else filled,
        points=get.get("points", (boxes[..., :2] + boxes[..., 2:]) / 2),
        has_points=nothing if options.get("test_drop_points", False) else filled,
        scribbles=get["scribbles"],
        has_scribbles=nothing if options.get("test_drop_scribbles", True) else drawn,
    )


def test_unifusion_tokens_are_the_recorded_ones(folder: Path) -> None:
    told, io = json.loads((folder / "unifusion.json").read_text()), load_file(folder / "unifusion.safetensors")
    for case in told["cases"]:
        model = unifusion_of(told, io, case["state"])
        with torch.no_grad():
            tokens = model(instances_of(case, io))
        assert_near(tokens, io[f"{case['case']}.tokens"], 1e-5)


def test_scale_u_gives_the_recorded_features_and_skips(folder: Path) -> None:
    io = load_file(folder / "scaleu.safetensors")
    for number in sorted({key.split(".")[0] for key in io}):
        layer = ScaleU(len(io[f"{number}.scaleu_b"]), by_mean=bool(io[f"{number}.se"]))
        layer.load_state_dict({"b": io[f"{number}.scaleu_b"], "s": io[f"{number}.scaleu_s"]})
        with torch.no_grad():
            hidden, skip = layer(io[f"{number}.h"], io[f"{number}.skip"])
        assert_near(hidden, io[f"{number}.h_out"], 1e-5)
        assert_near(skip, io[f"{number}.skip_out"], 1e-5)


def test_gated_attention_gives_the_recorded_features_at_any_scale(folder: Path) -> None:
    told, io = (
        json.loads((folder / "gated_attention.json").read_text()),
        load_file(folder / "gated_attention.safetensors"),
    )
    gate = GatedSelfAttention(told["query_dim"], told["context_dim"], told["heads"], told["dim_head"]).eval()
    gate.load_state_dict({key.removeprefix("state."): t for key, t in io.items() if key.startswith("state.")})
    with torch.no_grad():
        for key in [key for key in io if key.startswith("out")]:
            gate.scale = float(key.removeprefix("out_scale_")) if "_scale_" in key else 1.0
            assert_near(gate(io["x"], io["objs"]), io[key], 1e-5)


def toy_noise(latents: Tensor, timestep: int, context: float) -> Tensor:
    noise = torch.tanh(latents * (0.5 + 0.2 * context)) * (0.6 + 0.3 * context)
    return noise + 0.05 * torch.sin(torch.tensor(timestep / 100 + context))


def test_the_multi_instance_sampler_ends_where_the_recorded_one_does(folder: Path) -> None:
    told, io = json.loads((folder / "mis.json").read_text()), load_file(folder / "mis.safetensors")
    process = Diffusion({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    for case in told["cases"]:
        number, calls = case["case"], []

        def noise_of(latents: Tensor, timestep: int, rows: Sequence[tuple[int, int]], gate: float) -> Tensor:
            calls.extend([i, timestep] for _, i in rows)  # noqa: B023 used before the loop goes on
            scale, empty = case["guidance_scale"], float(io[f"{number}.uc"].mean())  # noqa: B023
            means = [float(io[f"{number}.context.{i}"].mean()) for _, i in rows]  # noqa: B023
            noises = []
            for row, mean in zip(latents, means, strict=True):
                without = toy_noise(row, timestep, empty)
                noises.append(without + scale * (toy_noise(row, timestep, mean) - without))
            return torch.stack(noises)

        assert plms_timesteps(case["N"]) == case["timesteps"]
        latents = multi_instance_sample(
            noise_of,
            io[f"{number}.x_T"],
            [case["instances"]],
            process.signal_T**2,
            case["N"],
            alone=case["mis"],
            gates=tuple(case["alpha_type"]),
        )
        assert_near(latents, io[f"{number}.out"], 2e-4)
        assert sorted(calls) == sorted(case["model_calls"])


def test_gates_open_and_shut_as_recorded(folder: Path) -> None:
    for case in json.loads((folder / "mis.json").read_text())["alpha_generator"]:
        assert gate_scales(case["length"], tuple(case["type"])) == pytest.approx(case["alphas"])
