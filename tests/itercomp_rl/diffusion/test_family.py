"""Which checkpoints can be a policy."""

import json
from pathlib import Path

import pytest
import torch

from itercomp_rl.diffusion.checkpoint import SCHEDULERS, WEIGHTS_NEEDED, check_checkpoint, check_scheduler
from itercomp_rl.diffusion.family import FAMILIES, load_policy
from itercomp_rl.errors import CheckpointError, ConfigError
from tests.parts.checkpoints import make_sd


def test_the_quick_check_and_the_loader_know_the_same_families() -> None:
    assert set(FAMILIES) == set(WEIGHTS_NEEDED)
    for name, (_, family) in FAMILIES.items():
        assert family.trainable_name in WEIGHTS_NEEDED[name]


def test_the_quick_check_and_the_families_know_the_same_samplers(folders: dict[str, Path], family: str) -> None:
    policy = load_policy(folders[family], resolution_px=16)
    assert SCHEDULERS[type(policy.pipeline).__name__] == policy.process.kinds


def test_a_sampler_of_another_noise_process_is_refused_before_anything_is_loaded() -> None:
    check_scheduler("FluxPipeline", "renoise")
    with pytest.raises(ConfigError, match="policy.scheduler is 'ddim' and policy.model a FluxPipeline: must be euler"):
        check_scheduler("FluxPipeline", "ddim")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_damaged_weights_are_refused_with_their_folder(tmp_path: Path, component: str, content: bytes | None) -> None:
    folder = make_sd(tmp_path / "model")
    file = next((folder / component).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)  # None: cut short
    with pytest.raises(CheckpointError, match=rf"model/{component}/.*safetensors (is damaged|has \d+ bytes)"):
        check_checkpoint(folder)
    with pytest.raises(CheckpointError, match=component):
        load_policy(folder)


def test_weights_of_the_right_length_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    folder = make_sd(tmp_path / "model")
    file = next((folder / "unet").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[200:204] = b"!!!!"  # within the header, which stays JSON or not, and no longer says what it said
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="model"):
        load_policy(folder)


def test_a_tokenizer_without_a_padding_token_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = make_sd(tmp_path / "model")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / "tokenizer" / name
        if file.is_file():
            file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "pad_token"}))
    with pytest.raises(CheckpointError, match="tokenizer has no padding token"):
        load_policy(folder)


def test_half_precision_on_a_cpu_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="fp16.*CPU.*bf16 or fp32"):
        load_policy(folders["sd"], dtype="fp16")


def test_a_loaded_policy_is_frozen_and_in_evaluation_mode(folders: dict[str, Path], family: str) -> None:
    policy = load_policy(folders[family], resolution_px=16)
    modules = [c for c in policy.pipeline.components.values() if isinstance(c, torch.nn.Module)]
    assert len(modules) >= 3
    assert not any(module.training for module in modules)
    assert not any(p.requires_grad for module in modules for p in module.parameters())


def test_an_unknown_dtype_is_refused_with_the_known_ones(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="fp32, bf16, fp16"):
        load_policy(folders["sd"], dtype="float32")
