"""What InstanceDiffusion adds to a Stable Diffusion 1 UNet, and how it is put in and taken out again.

The UNet's own weights stay as they are, so any Stable Diffusion 1 checkpoint can carry the layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, GatedSelfAttentionDense
from torch import Tensor, nn

from itercomp_rl.gallery.instance_diffusion.unifusion import UniFusion

# B images, P places, D width of features, C H W channels, height and width of features


class GatedSelfAttention(GatedSelfAttentionDense):
    """Attention of visual features to themselves and the instances' tokens, behind a learned gate.

    `scale` fades the gate from outside: 1 as learned, 0 shut.
    """

    def __init__(self, query_dim: int, context_dim: int, n_heads: int, d_head: int) -> None:
        super().__init__(query_dim, context_dim, n_heads, d_head)
        self.scale = 1.0

    def forward(self, x: Tensor, objs: Tensor) -> Tensor:
        num_places = x.shape[1]
        both = torch.cat([x, self.linear(objs)], dim=1)
        x = x + self.scale * self.get_parameter("alpha_attn").tanh() * self.attn(self.norm1(both))[:, :num_places]
        return x + self.scale * self.get_parameter("alpha_dense").tanh() * self.ff(self.norm2(x))


class ScaleU(nn.Module):
    """Learned scales of one up block layer: of its features [B, C, H, W] by channel, of its skip's low frequencies.

    by_mean: the features' scale is felt in proportion to the mean map, stretched to 0..1 in each image.
    """

    def __init__(self, num_channels: int, *, by_mean: bool = False) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(num_channels))
        self.s = nn.Parameter(torch.zeros(1))
        self.by_mean = by_mean

    def forward(self, hidden: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.b.tanh()[:, None, None]
        if self.by_mean:
            mean = hidden.mean(dim=1, keepdim=True)
            low, high = mean.amin(dim=(-2, -1), keepdim=True), mean.amax(dim=(-2, -1), keepdim=True)
            scale = scale * (mean - low) / (high - low)
        return hidden * (scale + 1).to(hidden.dtype), scale_low_frequencies(skip, self.s.tanh() + 1)


def scale_low_frequencies(skip: Tensor, scale: Tensor) -> Tensor:
    """[B, C, H, W] with the frequencies -1 and 0 of both directions times `scale`; reckoned in float32."""
    spectrum = torch.fft.fftn(skip.float(), dim=(-2, -1))
    factor = torch.ones(skip.shape[-2:], device=skip.device)
    rows, columns = (torch.tensor([0, side - 1], device=skip.device) for side in skip.shape[-2:])
    factor[rows[:, None], columns] = scale.float()
    return torch.fft.ifftn(spectrum * factor, dim=(-2, -1)).real.to(skip.dtype)


class InstanceLayers(nn.Module):
    """All added layers for one UNet: a gate for each transformer block, a ScaleU for each up block layer, UniFusion."""

    def __init__(self, unet: Any, unifusion: UniFusion) -> None:
        super().__init__()
        self.position_net = unifusion
        self.block_names = [name for name, module in unet.named_modules() if isinstance(module, BasicTransformerBlock)]
        self.fusers = nn.ModuleList(_gate(unet.get_submodule(name)) for name in self.block_names)
        self.resnet_names = [
            f"up_blocks.{block}.resnets.{layer}"
            for block, up in enumerate(unet.up_blocks)
            for layer in range(len(up.resnets))
        ]
        self.scaleu = nn.ModuleList(ScaleU(channels) for channels in _hidden_channels(unet))

    def set_gates(self, scale: float) -> None:
        """Fade all gates to `scale`."""
        for fuser in self.fusers:
            if isinstance(fuser, GatedSelfAttention):
                fuser.scale = scale

    @contextmanager
    def within(self, unet: Any) -> Iterator[None]:
        """The layers are part of `unet` for as long as this lasts; then it is what it was.

        Meanwhile cross_attention_kwargs={"gligen": {"tokens": ...}} hands UniFusion's tokens to the gates; without them
        only ScaleU acts.
        """
        blocks = [unet.get_submodule(name) for name in self.block_names]
        before = [getattr(block, "fuser", None) for block in blocks], getattr(unet, "position_net", None)
        for block, fuser in zip(blocks, self.fusers, strict=True):
            block.fuser = fuser
        unet.position_net = _Given()
        hooks = [
            unet.get_submodule(name).register_forward_pre_hook(_scaled_by(scaleu))
            for name, scaleu in zip(self.resnet_names, self.scaleu, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for owner, name, module in [
                (unet, "position_net", before[1]),
                *((block, "fuser", fuser) for block, fuser in zip(blocks, before[0], strict=True)),
            ]:
                delattr(owner, name)
                if module is not None:
                    setattr(owner, name, module)


class _Given(nn.Module):
    """Stands where diffusers encodes boxes anew at every step: the tokens are made once, as they never change."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens


def _scaled_by(scaleu: nn.Module) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # diffusers joins features and skip just before it calls the residual block
        num_hidden = len(scaleu.b)  # pyright: ignore[reportArgumentType] a Parameter
        hidden, skip = scaleu(args[0][:, :num_hidden], args[0][:, num_hidden:])
        return (torch.cat([hidden, skip], dim=1), *args[1:])

    return hook


def _gate(block: nn.Module) -> GatedSelfAttention:
    """A gate of the shape that a transformer block asks for, shut as it is before training."""
    attention: Any = block.get_submodule("attn2")
    heads = attention.heads
    return GatedSelfAttention(attention.query_dim, attention.cross_attention_dim, heads, attention.inner_dim // heads)


def _hidden_channels(unet: Any) -> list[int]:
    """Channels of the features, without the skip's, that enter each residual block of the up blocks."""
    channels, found = unet.config.block_out_channels[-1], []
    for up in unet.up_blocks:
        for resnet in up.resnets:
            found.append(channels)
            channels = resnet.out_channels
    return found
