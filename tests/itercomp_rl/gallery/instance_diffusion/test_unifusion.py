"""What becomes of locations on their way to tokens."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import ConvNextConfig

from itercomp_rl.gallery.instance_diffusion.unifusion import DIMS, Instances, UniFusion, fourier_features
from itercomp_rl.gallery.planning.layout import MAX_BOXES

CONVNEXT = ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])


@pytest.fixture(scope="module")
def model() -> UniFusion:
    torch.manual_seed(0)
    model = UniFusion(in_dim=12, out_dim=10, mid_dim=16, convnext=CONVNEXT, seg_side=64).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("null_"):
                parameter.normal_()
    return model.requires_grad_(False)


def instances(seed: int = 0) -> Instances:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.rand(2, MAX_BOXES, *shape, generator=generator)

    ones = torch.ones(2, MAX_BOXES)
    return Instances(
        text=noise(12),
        filled=ones,
        boxes=noise(DIMS["boxes"]),
        has_boxes=ones,
        points=noise(DIMS["points"]),
        has_points=ones,
        scribbles=noise(DIMS["scribbles"]),
        has_scribbles=ones,
        polygons=noise(DIMS["polygons"]),
        has_polygons=ones,
        segs=(noise(64, 64) > 0.5).float(),
        has_segs=torch.ones(2),
    )


def test_fourier_features_of_one_number_by_hand() -> None:
    # frequencies 100^(0/2) = 1 and 100^(1/2) = 10, for each the sine and then the cosine
    expected = [math.sin(0.5), math.cos(0.5), math.sin(5.0), math.cos(5.0)]
    torch.testing.assert_close(fourier_features(torch.tensor([0.5]), 2), torch.tensor(expected))


def test_fourier_features_take_the_sines_of_all_coordinates_first() -> None:
    expected = [math.sin(0.1), math.sin(0.2), math.cos(0.1), math.cos(0.2)]
    torch.testing.assert_close(fourier_features(torch.tensor([0.1, 0.2]), 1), torch.tensor(expected))


def test_widths_are_those_of_the_paper() -> None:
    widths = {kind: fourier_features(torch.zeros(width)).numel() for kind, width in DIMS.items()}
    assert widths == {"boxes": 128, "points": 64, "scribbles": 1280, "polygons": 16384}


def test_there_are_four_tokens_an_instance_and_one_for_the_tiny_mask_image(model: UniFusion) -> None:
    assert model(instances()).shape == (2, 4 * MAX_BOXES + 1, 10)


def test_what_is_not_given_has_no_effect(model: UniFusion) -> None:
    one, other, nothing = instances(0), instances(1), torch.zeros(2, MAX_BOXES)
    for kind in DIMS:
        without = replace(one, **{f"has_{kind}": nothing})
        changed = replace(without, **{kind: getattr(other, kind)})
        assert torch.equal(model(without), model(changed))
        assert not torch.equal(model(without), model(one))
    unseen = replace(one, has_segs=torch.zeros(2))
    torch.testing.assert_close(model(unseen), model(replace(unseen, segs=other.segs)))


def test_empty_slots_all_say_the_same(model: UniFusion) -> None:
    tokens = model(instances().emptied())[:, : 4 * MAX_BOXES].unflatten(1, (4, MAX_BOXES))
    assert torch.equal(tokens, tokens[:1, :, :1].expand_as(tokens))


def test_one_picture_with_a_mask_does_not_touch_its_neighbours(model: UniFusion) -> None:
    both = replace(instances(), has_segs=torch.tensor([0.0, 1.0]))
    neither = replace(both, has_segs=torch.zeros(2))
    torch.testing.assert_close(model(both)[0], model(neither)[0])
    assert not torch.allclose(model(both)[1], model(neither)[1])


def test_instances_in_another_order_give_the_same_tokens_in_that_order(model: UniFusion) -> None:
    one = replace(instances(), has_segs=torch.zeros(2))
    order = torch.randperm(MAX_BOXES, generator=torch.Generator().manual_seed(2))
    names = ("text", *DIMS)
    shuffled = replace(one, **{name: getattr(one, name)[:, order] for name in names})
    tokens = model(one)[:, : 4 * MAX_BOXES].unflatten(1, (4, MAX_BOXES))
    after = model(shuffled)[:, : 4 * MAX_BOXES].unflatten(1, (4, MAX_BOXES))
    torch.testing.assert_close(after, tokens[:, :, order])
