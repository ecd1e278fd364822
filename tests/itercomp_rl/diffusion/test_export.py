"""What is exported draws, in plain diffusers, what the policy drew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.export import ADAPTER, KOHYA_ADAPTER, check_adapter, export_policy
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


def adapted(folder: Path, *, dtype: str = "fp32") -> Policy:
    """A policy whose adapter has another alpha than rank, and weights that draw another image than the base."""
    policy = load_policy(folder, resolution_px=16, dtype=dtype)
    add_lora(policy, Lora(rank=2, alpha=9.0, targets=policy.family.lora_targets))
    changed(policy)
    return policy


def products(network: Any, adapter: str = "default") -> dict[str, torch.Tensor]:
    """What an adapter adds to each layer's weight: the scaled product, as the layer itself computes it."""
    return {
        name: part.get_delta_weight(adapter).detach()
        for name, part in network.named_modules()
        if hasattr(part, "get_delta_weight") and adapter in part.lora_A
    }


@pytest.mark.parametrize("file", [ADAPTER, KOHYA_ADAPTER])
def test_a_loader_that_reads_no_metadata_applies_the_strength_that_was_trained(
    folders: dict[str, Path], family: str, tmp_path: Path, file: str
) -> None:
    policy = adapted(folders[family])
    trained = products(policy.trainable)
    export_policy(policy, tmp_path / "out")
    if file == KOHYA_ADAPTER and family in ("sd3", "flux"):
        assert not (tmp_path / "out" / KOHYA_ADAPTER).exists()
        return
    save_file(load_file(tmp_path / "out" / file), tmp_path / "bare.safetensors")  # the tensors alone
    base: Any = DiffusionPipeline.from_pretrained(folders[family])
    base.load_lora_weights(tmp_path, weight_name="bare.safetensors", adapter_name="a")
    loaded = products(getattr(base, policy.family.trainable_name), "a")
    assert loaded.keys() == trained.keys()
    assert trained
    for name, product in trained.items():
        torch.testing.assert_close(loaded[name], product, rtol=1e-5, atol=1e-7)


def test_the_product_of_an_exported_pair_is_what_the_merged_weights_add(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    policy = adapted(folders[family])
    name = policy.family.trainable_name
    before = {key: w.clone() for key, w in policy.trainable.state_dict().items() if ".base_layer." in key}
    export_policy(policy, tmp_path / "out")
    after = getattr(DiffusionPipeline.from_pretrained(tmp_path / "out"), name).state_dict()
    pairs = load_file(tmp_path / "out" / ADAPTER)
    layers = [key.removesuffix(".lora_A.weight") for key in pairs if key.endswith(".lora_A.weight")]
    assert layers
    for layer in layers:
        plain = layer.removeprefix(f"{name}.")
        added = after[f"{plain}.weight"] - before[f"{plain}.base_layer.weight"]
        product = pairs[f"{layer}.lora_B.weight"] @ pairs[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(product, added, rtol=1e-4, atol=1e-6)


def test_an_adapter_in_half_precision_keeps_its_dtype_and_its_strength(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    policy = adapted(folders["sdxl"], dtype="bf16")
    trained = products(policy.trainable)
    export_policy(policy, tmp_path / "out")
    pairs = load_file(tmp_path / "out" / ADAPTER)
    assert {tensor.dtype for tensor in pairs.values()} == {torch.bfloat16}
    for name, product in trained.items():
        exported = pairs[f"unet.{name}.lora_B.weight"] @ pairs[f"unet.{name}.lora_A.weight"]
        assert (exported - product).float().norm() < 0.02 * product.float().norm()


def test_an_adapter_whose_strength_is_in_metadata_alone_is_not_given_away(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    export_policy(adapted(folders["sd"]), tmp_path / "out")
    check_adapter(tmp_path / "out")
    check_adapter(tmp_path)  # a policy that learned whole has no adapter
    path, metadata = tmp_path / "out" / ADAPTER, '{"unet.lora_alpha": 9.0, "unet.r": 2}'
    save_file(load_file(path), path, metadata={"lora_adapter_metadata": metadata})
    with pytest.raises(CheckpointError, match=r"states alpha 9 and rank 2 in its metadata alone.*export the run again"):
        check_adapter(tmp_path / "out")


def test_an_export_does_not_overwrite(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="written once"):
        export_policy(load_policy(folders["sd"]), tmp_path)
    assert list(tmp_path.iterdir()) == []
