"""Adapters: what they may sit on, that they start silent, and that published ones come back whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.lora import MARK, Lora, add_lora, load_weights
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.store import weights
from itercomp_rl.store.store import open_store

PROMPTS = ["a red cup left of a blue ball", "a cat"]


def lora(policy: Policy, rank: int = 2) -> Lora:
    return Lora(rank=rank, alpha=4.0, targets=policy.family.lora_targets)


def move(policy: Policy) -> dict[str, torch.Tensor]:
    """Give the adapter weights that count; returns them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.trainable.parameters():
            if weight.requires_grad:
                weight += torch.randn(weight.shape, generator=generator)
    return {name: p.detach().clone() for name, p in policy.trainable.named_parameters() if p.requires_grad}


def test_an_adapter_starts_silent_and_alone_learns(policy: Policy) -> None:
    before = policy.draw(PROMPTS, [1, 2], 2)
    add_lora(policy, lora(policy))
    assert np.array_equal(policy.draw(PROMPTS, [1, 2], 2), before)
    learning = {name for name, p in policy.trainable.named_parameters() if p.requires_grad}
    assert learning
    assert all(MARK in name for name in learning)
    assert not any(MARK in name for name, p in policy.trainable.named_parameters() if not p.requires_grad)


def test_every_default_target_gets_an_adapter_and_a_gradient(policy: Policy) -> None:
    add_lora(policy, lora(policy))
    ups = {name: p for name, p in policy.trainable.named_parameters() if ".lora_B." in name}
    for target in policy.family.lora_targets:
        assert any(f".{target}.lora_B" in name for name in ups), target
    cond, schedule = policy.encode(PROMPTS), policy.schedule(3)
    policy.predict_x0(policy.start_latents(image_generators([1, 2])), cond, schedule, 0).square().mean().backward()
    silent = [name for name, p in ups.items() if p.grad is None or not p.grad.abs().max() > 0]
    # the last block of SD3 and FLUX's single blocks drop what they compute for the text
    assert len(silent) <= 2, silent


def test_the_same_seed_makes_the_same_adapter_and_leaves_the_global_generator(folders: dict[str, Path]) -> None:
    found = []
    for seed in (3, 3, 4):
        policy = load_policy(folders["sd"])
        torch.manual_seed(7)
        add_lora(policy, lora(policy), seed=seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7)))
        found.append(torch.cat([p.flatten() for n, p in policy.trainable.named_parameters() if ".lora_A." in n]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_published_adapter_is_only_the_adapter_and_draws_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    learner, other = load_policy(folders["sdxl"]), load_policy(folders["sdxl"])
    add_lora(learner, lora(learner))
    tensors = move(learner)
    store = open_store(tmp_path.as_uri(), create=True)
    weights.publish(store, "policy", 0, tensors, {"lora": lora(learner).tree()})
    load_published(other, weights.open_version(store, "policy", 0))
    assert np.array_equal(other.draw(PROMPTS, [1, 2], 2), learner.draw(PROMPTS, [1, 2], 2))
    assert not np.array_equal(load_policy(folders["sdxl"]).draw(PROMPTS, [1, 2], 2), other.draw(PROMPTS, [1, 2], 2))
    whole = sum(p.numel() for p in load_policy(folders["sdxl"]).trainable.parameters())
    assert sum(tensor.numel() for tensor in weights.open_version(store, "policy", 0).load().values()) < 0.2 * whole


def test_whole_weights_come_back_for_every_family(policy: Policy, folders: dict[str, Path], family: str) -> None:
    policy.trainable.requires_grad_(True)
    tensors = move(policy)
    other = load_policy(folders[family], resolution_px=16)
    load_weights(other, tensors, None)
    assert all(torch.equal(p, tensors[name]) for name, p in other.trainable.named_parameters())


@pytest.mark.parametrize("targets", [("to_z",), ("to_q", "to_z"), ("o_q",), ("conv_in.weight",)])
def test_a_target_that_matches_nothing_is_refused(folders: dict[str, Path], targets: tuple[str, ...]) -> None:
    policy = load_policy(folders["sd"])
    with pytest.raises(ConfigError, match=r"policy\.lora\.targets names '.*', and no layer of UNet2DConditionModel"):
        add_lora(policy, Lora(rank=2, alpha=2.0, targets=targets))
    add_lora(policy, lora(policy))  # nothing was changed by the refusal


def test_near_names_are_shown(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"near: .*to_q"):
        add_lora(load_policy(folders["sd"]), Lora(rank=2, alpha=2.0, targets=("to_qq",)))


def test_weights_of_another_family_or_shape_are_refused(folders: dict[str, Path]) -> None:
    sd, sdxl = load_policy(folders["sd"]), load_policy(folders["sdxl"])
    tensors = dict(sdxl.trainable.named_parameters())
    with pytest.raises(CheckpointError, match="names differ"):
        load_weights(sd, tensors, None)
    add_lora(sd, lora(sd))
    adapter = move(sd)
    with pytest.raises(CheckpointError, match="is \\[2, "):
        load_weights(load_policy(folders["sd"]), adapter, lora(sd, rank=3))
    with pytest.raises(CheckpointError, match="names differ"):
        load_weights(load_policy(folders["sd"]), adapter, None)


def test_a_second_adapter_is_refused(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["sd"])
    add_lora(policy, lora(policy))
    with pytest.raises(CheckpointError, match="already"):
        add_lora(policy, lora(policy))


def test_an_adapter_of_a_half_precision_network_is_half_precision(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["sd"], dtype="bf16")
    add_lora(policy, lora(policy))
    assert {p.dtype for p in policy.trainable.parameters()} == {torch.bfloat16}
