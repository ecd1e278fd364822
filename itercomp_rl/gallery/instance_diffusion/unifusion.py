"""UniFusion: where instances are and what they are called, as tokens that visual features can attend to.

Source: InstanceDiffusion (arXiv 2402.03290). Submodules and parameters bear the names of the released checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextModel

from itercomp_rl.gallery.planning.layout import MAX_BOXES

# B images, N slots for instances, D width of the pooled text, S side of the masks, K kinds of location

NUM_FREQUENCIES = 16
NUM_SCRIBBLE_POINTS = 20
NUM_POLYGON_POINTS = 256
NUM_SEG_TOKENS = 64
KINDS = ("boxes", "points", "scribbles", "polygons")
DIMS = {"boxes": 4, "points": 2, "scribbles": 2 * NUM_SCRIBBLE_POINTS, "polygons": 2 * NUM_POLYGON_POINTS}
NULLS = {"boxes": "position", "points": "point", "scribbles": "scribble", "polygons": "polygon"}


@dataclass(frozen=True, kw_only=True)
class Instances:
    """What is known of the instances of a batch; a weight of 0 puts the learned null in a value's place.

    Coordinates are shares of width and height: boxes left, top, right, bottom; all else x, y, x, y and so on.
    """

    text: Tensor  # [B, N, D] pooled phrases
    filled: Tensor  # [B, N] 1 where a slot holds an instance
    boxes: Tensor  # [B, N, 4]
    has_boxes: Tensor  # [B, N]
    points: Tensor  # [B, N, 2]
    has_points: Tensor
    scribbles: Tensor  # [B, N, 40]
    has_scribbles: Tensor
    polygons: Tensor | None = None  # [B, N, 512]
    has_polygons: Tensor | None = None
    segs: Tensor | None = None  # [B, N, S, S] masks, 1 inside
    has_segs: Tensor | None = None  # [B]

    def emptied(self) -> "Instances":
        """As many slots with nothing in them: what guidance pushes away from."""
        return self._each(torch.zeros_like)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Instances":
        return self._each(lambda tensor: tensor.to(device, dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Instances":
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})


def fourier_features(values: Tensor, num_frequencies: int = NUM_FREQUENCIES) -> Tensor:
    """Features [..., 2 F C] of coordinates [..., C]: for frequencies 100^(k/F), k < F, sines then cosines."""
    frequencies = 100 ** (torch.arange(num_frequencies, device=values.device, dtype=torch.float32) / num_frequencies)
    angles = frequencies.to(values.dtype)[:, None] * values[..., None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class UniFusion(nn.Module):
    """Tokens of boxes, points, scribbles and, with `with_masks`, polygons and the mask image.

    joint: one token an instance from all its locations together, in place of one for each kind; has no mask image.
    convnext: sizes of the mask image's encoder, ConvNeXt-tiny in the release. seg_side: side it sees masks at, in px.
    """

    def __init__(
        self,
        *,
        in_dim: int = 768,
        out_dim: int = 768,
        mid_dim: int = 3072,
        with_masks: bool = True,
        joint: bool = False,
        convnext: ConvNextConfig | None = None,
        seg_side: int = 512,
    ) -> None:
        super().__init__()
        self.kinds = KINDS if with_masks else KINDS[:3]
        self.seg_side = seg_side
        widths = {kind: 2 * NUM_FREQUENCIES * DIMS[kind] for kind in self.kinds}
        self.null_positive_feature = nn.Parameter(torch.zeros(in_dim))
        for kind, width in widths.items():
            self.register_parameter(f"null_{NULLS[kind]}_feature", nn.Parameter(torch.zeros(width)))
        self.linears: nn.Sequential | None = None
        if joint:
            self.linears = _mlp(in_dim + sum(widths.values()), mid_dim, out_dim)
            return
        sizes = [in_dim + width for width in widths.values()]
        if with_masks:
            config = convnext or ConvNextConfig()
            seg_dim = (
                4 * (config.hidden_sizes or [])[-1]
            )  # the map of side S / 32, cut into 64 tokens of neighbouring rows
            self.in_conv = nn.Conv2d(MAX_BOXES, 3, 3, padding=1)
            self.convnext_tiny_backbone = ConvNextModel(config)
            del self.convnext_tiny_backbone.layernorm  # only the pooled output, unused, would go through it
            self.convnext_tiny_backbone.add_module("layernorm", nn.Identity())
            self.pos_embedding = nn.Parameter(torch.zeros(1, self.num_seg_tokens, seg_dim))
            self.null_seg_feature = nn.Parameter(torch.zeros(seg_dim))
            sizes.append(seg_dim)
        self.linears_list = nn.ModuleList(_mlp(size, mid_dim, out_dim) for size in sizes)

    @property
    def num_seg_tokens(self) -> int:
        return (self.seg_side // 64) ** 2

    def forward(self, instances: Instances) -> Tensor:
        """Tokens [B, K N (+ 64), out_dim], kind after kind; [B, N, out_dim] if joint."""
        text = _or_null(instances.text, instances.filled, self.null_positive_feature)
        places = []
        for kind in self.kinds:
            null = self.get_parameter(f"null_{NULLS[kind]}_feature")
            places.append(_or_null(fourier_features(getattr(instances, kind)), getattr(instances, f"has_{kind}"), null))
        if self.linears is not None:
            return self.linears(torch.cat([text, *places], dim=-1))
        tokens = [mlp(torch.cat([text, place], dim=-1)) for mlp, place in zip(self.linears_list, places, strict=False)]
        if "polygons" in self.kinds:
            tokens.append(self.linears_list[-1](self._seg_features(instances)))
        return torch.cat(tokens, dim=1)

    def _seg_features(self, instances: Instances) -> Tensor:
        segs, has_segs = instances.segs, instances.has_segs
        if segs is None or has_segs is None:
            raise ValueError("this UniFusion reads masks: give segs and has_segs, zeros where there are none")
        null = self.null_seg_feature.expand(len(segs), self.num_seg_tokens, -1)
        if not has_segs.any():  # the usual case, boxes alone: the encoder's output would be thrown away
            return null + self.pos_embedding
        image = self.in_conv(F.interpolate(segs, self.seg_side, mode="nearest"))
        seen = self.convnext_tiny_backbone(image).last_hidden_state
        seen = seen.reshape(len(segs), -1, self.num_seg_tokens).transpose(1, 2)
        weight = has_segs[:, None, None]
        return seen * weight + null * (1 - weight) + self.pos_embedding


def _mlp(in_dim: int, mid_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_dim, mid_dim), nn.SiLU(), nn.Linear(mid_dim, mid_dim), nn.SiLU(), nn.Linear(mid_dim, out_dim)
    )


def _or_null(values: Tensor, weight: Tensor, null: Tensor) -> Tensor:
    return values * weight[..., None] + (1 - weight[..., None]) * null
