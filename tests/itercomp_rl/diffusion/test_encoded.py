"""Prompts are encoded once, before the network is on the device, and the text encoders are gone from then on."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from itercomp_rl.diffusion.encoded import EncodedPrompts, load_with_encoded_prompts
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import ConfigError

CPU = torch.device("cpu")
PROMPTS = ["a red cup", "the dog on a box", "a cat"]


def told(folder: Path, prompts: list[str], encoded: EncodedPrompts) -> Policy:
    return load_with_encoded_prompts(folder, prompts, encoded, dtype="fp32", device=CPU, resolution_px=16)


def test_prompts_are_told_as_the_whole_policy_tells_them_and_the_encoders_are_gone(
    folders: dict[str, Path], family: str
) -> None:
    encoded, whole = EncodedPrompts(), load_policy(folders[family], resolution_px=16)
    policy = told(folders[family], [*PROMPTS, PROMPTS[0]], encoded)
    cond, expected = encoded.of(PROMPTS[::-1], CPU), whole.encode(PROMPTS[::-1])
    for name in ("tokens", "pooled", "time_ids", "guidance"):
        ours, theirs = getattr(cond, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(getattr(policy.pipeline, name) is None for name in policy.family.text_components)
    with pytest.raises(ConfigError, match="text encoders were dropped"):
        policy.encode(PROMPTS)


def test_guidance_still_knows_the_empty_prompt(folders: dict[str, Path], family: str) -> None:
    encoded, whole = EncodedPrompts(), load_policy(folders[family], resolution_px=16)
    policy = told(folders[family], PROMPTS, encoded)
    ours = policy.draw(encoded.of(PROMPTS, CPU), [1, 2, 3], 2, guidance=4.0)
    theirs = whole.draw(PROMPTS, [1, 2, 3], 2, guidance=4.0)
    assert abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_a_prompt_is_encoded_once_and_later_rounds_load_no_text_encoder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder, encoded = shutil.copytree(folders["sdxl"], tmp_path / "sdxl"), EncodedPrompts()
    told(folder, PROMPTS[:2], encoded)
    before = encoded.of(PROMPTS[:2], CPU).tokens
    assert encoded.missing([*PROMPTS, ""]) == ["a cat"]
    # Other encoders from here on: what the first ones said must stand.
    for file in folder.glob("text_encoder*/*.safetensors"):
        state = load_file(file)
        save_file({name: 1.5 * tensor for name, tensor in state.items()}, file, metadata={"format": "pt"})
    told(folder, PROMPTS, encoded)
    assert torch.equal(encoded.of(PROMPTS[:2], CPU).tokens, before)
    cat = load_policy(folders["sdxl"], resolution_px=16).encode(["a cat"]).tokens
    assert not torch.allclose(encoded.of(["a cat"], CPU).tokens, cat, atol=1e-2)
    assert told(folder, PROMPTS, encoded).pipeline.text_encoder is None
