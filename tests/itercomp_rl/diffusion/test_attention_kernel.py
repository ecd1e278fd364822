"""One place chooses the attention kernel, and says why flash cannot be had."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.diffusion.attention_kernel import check_attention, kernel, set_attention
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.errors import ConfigError
from tests.parts.checkpoints import make_flux, make_sd, make_sd3, make_sdxl
from tests.parts.tiny_rewards import images, texts, tiny_model

CPU = torch.device("cpu")


def test_flash_on_a_cpu_is_refused_with_the_reason() -> None:
    check_attention("policy.attention", "sdpa", torch.float32, CPU)
    with pytest.raises(ConfigError, match="policy.attention is 'flash': FlashAttention needs an NVIDIA GPU"):
        check_attention("policy.attention", "flash", torch.bfloat16, CPU)


def test_flash_in_fp32_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="these weights are float32"):
        check_attention("gallery.attention", "flash", torch.float32, torch.device("cuda"))


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="sdpa, flash"):
        check_attention("policy.attention", "xformers", torch.float32, CPU)


@pytest.mark.parametrize("part", ["policy", "gallery", "reward"])
def test_a_config_that_cannot_have_flash_is_refused_before_anything_starts(part: str) -> None:
    with pytest.raises(ConfigError, match=f"{part}.attention is 'flash'.*fp32"):
        load_config("quickstart", [f"{part}.attention=flash"])
    with pytest.raises(ConfigError, match="one of sdpa, flash"):
        load_config("quickstart", [f"{part}.attention=fast"])
    dtype = "gallery.dtype=bf16" if part == "gallery" else f"{part}.engine.dtype=bf16"
    with pytest.raises(ConfigError, match="actors.device is 'cpu'"):
        load_config("quickstart", [f"{part}.attention=flash", dtype, "actors.device=cpu"])


def test_a_gallery_member_that_cannot_have_flash_is_refused_by_its_own_key() -> None:
    flash = ["gallery.attention=flash", "gallery.dtype=bf16", "gallery.compile=false"]
    load_config("quickstart", [*flash, "gallery.members.spatial.dtype=fp16", "actors.device=cuda"])
    with pytest.raises(ConfigError, match=r"gallery\.members\.spatial\.dtype is 'fp32'.*gallery\.attention"):
        load_config("quickstart", [*flash, "gallery.members.spatial.dtype=fp32"])


def test_where_flash_cannot_serve_it_fails_and_never_falls_back() -> None:
    query = torch.zeros(1, 1, 4, 8)
    with kernel("flash"), pytest.raises(RuntimeError, match="[Nn]o (available|viable)"):
        torch.nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=0.5)
    with kernel("sdpa"):
        torch.nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=0.5)


@pytest.mark.parametrize("make", [make_sd, make_sdxl, make_sd3, make_flux])
def test_every_attention_layer_is_held_to_flash_and_computes_the_same(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    # torch has a flash kernel for the CPU too, so that the wiring can be run here; check_attention is for users.
    policy = load_policy(make(tmp_path / "model"), resolution_px=16)
    before = policy.draw(["a red cup"], [1], 2)
    set_attention(policy.trainable, "flash")
    layers = [layer for layer in policy.trainable.modules() if hasattr(layer, "processor")]
    assert layers
    assert {type(layer.processor).__name__ for layer in layers} == {"_Flash"}
    after = policy.draw(["a red cup"], [1], 2)
    assert np.abs(before.astype(int) - after.astype(int)).max() <= 1


def test_sdpa_changes_nothing() -> None:
    model = tiny_model()
    before = model.score(images(), *texts())
    set_attention(model, "sdpa")
    assert torch.equal(model.score(images(), *texts()), before)
