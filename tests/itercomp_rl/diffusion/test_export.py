"""What is exported draws, in plain diffusers, what the policy drew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.export import ADAPTER, export_policy
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.lora import Lora, add_lora
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import CheckpointError

PROMPTS = ["a red cup left of a blue ball", "a cat"]
SEEDS = [3, 4]


def drawn_plainly(pipeline: Any, family: str) -> np.ndarray:
    """Float images [B, H, W, 3] by the pipeline alone."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        num_inference_steps=3,
        height=16,
        width=16,
        guidance_scale=3.5 if family == "flux" else 1.0,
        generator=image_generators(SEEDS),
        output_type="np",
    ).images


def drawn_by_policy(policy: Policy) -> np.ndarray:
    cond, schedule, generators = policy.encode(PROMPTS), policy.schedule(3), image_generators(SEEDS)
    with torch.no_grad():
        x0 = policy.denoise_to(policy.start_latents(generators), cond, schedule, (0, 3), generators)
        return policy.decode(x0).permute(0, 2, 3, 1).numpy()


def changed(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.trainable.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)


def test_the_whole_policy_draws_the_same_in_plain_diffusers(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    policy = load_policy(folders[family], resolution_px=16)
    before = drawn_by_policy(policy)
    policy.trainable.requires_grad_(True)
    changed(policy)
    ours = drawn_by_policy(policy)
    assert np.abs(ours - before).max() > 0.01
    export_policy(policy, tmp_path / "out")
    theirs = drawn_plainly(DiffusionPipeline.from_pretrained(tmp_path / "out"), family)
    np.testing.assert_allclose(theirs, ours, atol=2e-5)
    assert not (tmp_path / "out" / ADAPTER).exists()
    assert not list((tmp_path / "out").rglob("*.bin"))
    np.testing.assert_allclose(drawn_by_policy(load_policy(tmp_path / "out", resolution_px=16)), ours, atol=2e-5)


def test_an_adapter_draws_the_same_merged_and_on_the_base(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    policy = load_policy(folders[family], resolution_px=16)
    before = drawn_by_policy(policy)
    # alpha differs from rank: an adapter that loses its scale on the way draws something else
    add_lora(policy, Lora(rank=2, alpha=8.0, targets=policy.family.lora_targets))
    changed(policy)
    changed(policy)
    ours = drawn_by_policy(policy)
    assert np.abs(ours - before).max() > 0.003
    export_policy(policy, tmp_path / "out")
    merged = DiffusionPipeline.from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(drawn_plainly(merged, family), ours, atol=5e-5)
    base: Any = DiffusionPipeline.from_pretrained(folders[family])
    base.load_lora_weights(tmp_path / "out", weight_name=ADAPTER)
    if family in ("sd", "sdxl"):
        base.scheduler = DDIMScheduler.from_config(base.scheduler.config, clip_sample=False)
    np.testing.assert_allclose(drawn_plainly(base, family), ours, atol=5e-5)


def test_an_export_does_not_overwrite(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="written once"):
        export_policy(load_policy(folders["sd"]), tmp_path)
    assert list(tmp_path.iterdir()) == []
