"""Layers that are part of a UNet for a while, and leave it as it was."""

import torch
from torch import Tensor

from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers, ScaleU, scale_low_frequencies
from itercomp_rl.gallery.instance_diffusion.unifusion import UniFusion
from tests.parts.layout_checkpoints import make_layers, make_unet

TOKENS = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))


def run(unet: torch.nn.Module, tokens: Tensor | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
    kwargs = None if tokens is None else {"gligen": {"tokens": tokens}}
    with torch.no_grad():
        return unet(latents, 500, encoder_hidden_states=text, cross_attention_kwargs=kwargs, return_dict=False)[0]


def test_untrained_layers_change_nothing(policy: Policy) -> None:
    unet = policy.trainable
    layers = InstanceLayers(unet, UniFusion(in_dim=32, out_dim=32, mid_dim=16, with_masks=False)).eval()
    with layers.within(unet):
        found = run(unet, TOKENS)
    torch.testing.assert_close(found, run(unet), rtol=1e-4, atol=1e-5)


def test_gates_shut_are_as_no_tokens(policy: Policy, layers: InstanceLayers) -> None:
    with layers.within(policy.trainable):
        layers.set_gates(0.0)
        assert torch.equal(run(policy.trainable, TOKENS), run(policy.trainable))


def test_gates_and_scales_each_change_the_output(policy: Policy, layers: InstanceLayers) -> None:
    plain = run(policy.trainable)
    with layers.within(policy.trainable):
        scaled = run(policy.trainable)
        gated = run(policy.trainable, TOKENS)
    assert not torch.allclose(plain, scaled)
    assert not torch.allclose(scaled, gated)


def test_a_gate_opens_gradually(policy: Policy, layers: InstanceLayers) -> None:
    found = []
    with layers.within(policy.trainable):
        for scale in (0.0, 1e-3, 1e-2, 1e-1):
            layers.set_gates(scale)
            found.append(run(policy.trainable, TOKENS))
    changes = [float((output - found[0]).norm()) for output in found]
    assert changes == sorted(changes)
    assert changes[1] < 0.1 * changes[3]


def test_the_unet_is_what_it_was_afterwards(policy: Policy, layers: InstanceLayers) -> None:
    before, names = run(policy.trainable), list(policy.trainable.state_dict())
    with layers.within(policy.trainable):
        run(policy.trainable, TOKENS)
    assert torch.equal(run(policy.trainable), before)
    assert list(policy.trainable.state_dict()) == names


def test_gligens_own_layers_are_put_back() -> None:
    unet = make_unet(attention_type="gated").eval().requires_grad_(False)
    kept = {name: module for name, module in unet.named_modules() if name.endswith((".fuser", "position_net"))}
    with make_layers(unet).within(unet):
        assert all(unet.get_submodule(name) is not module for name, module in kept.items())
    assert all(unet.get_submodule(name) is module for name, module in kept.items())


def test_the_low_frequencies_hold_the_mean() -> None:
    skip = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    doubled = scale_low_frequencies(skip, torch.tensor([2.0]))
    torch.testing.assert_close(doubled.mean(dim=(-2, -1)), 2 * skip.mean(dim=(-2, -1)))
    torch.testing.assert_close(scale_low_frequencies(skip, torch.tensor([1.0])), skip, rtol=0, atol=1e-6)


def test_scale_u_starts_as_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, skip = torch.randn(2, 3, 7, 9, generator=generator), torch.randn(2, 5, 7, 9, generator=generator)
    found = ScaleU(3)(hidden, skip)
    torch.testing.assert_close(found, (hidden, skip), rtol=0, atol=1e-5)
