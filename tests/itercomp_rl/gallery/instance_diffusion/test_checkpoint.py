"""Where the added layers are found in the released checkpoint and in its diffusers port."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from omegaconf import OmegaConf
from safetensors.torch import save_file

from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.errors import CheckpointError
from itercomp_rl.gallery.instance_diffusion.checkpoint import layer_names, load_layers, original_name
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers
from itercomp_rl.gallery.instance_diffusion.unifusion import UniFusion
from tests.parts.layout_checkpoints import instance_state, save_port


def assert_same(found: InstanceLayers, expected: InstanceLayers) -> None:
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("entry", ["ema", "model", None])
def test_the_released_form_is_read(policy: Policy, layers: InstanceLayers, tmp_path: Path, entry: str | None) -> None:
    state = instance_state(policy.trainable, layers, original=True)
    file = tmp_path / "released.pth"
    torch.save({entry: state, "iters": 3} if entry else state, file)
    assert_same(load_layers(file, policy.trainable), layers)


def test_averaged_weights_come_before_the_last_ones(policy: Policy, layers: InstanceLayers, tmp_path: Path) -> None:
    state = instance_state(policy.trainable, layers, original=True)
    last = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({"model": last, "ema": state}, tmp_path / "both.pth")
    assert_same(load_layers(tmp_path / "both.pth", policy.trainable), layers)


def test_a_training_configuration_beside_the_weights_is_no_code(
    policy: Policy, layers: InstanceLayers, tmp_path: Path
) -> None:
    config = OmegaConf.create({"model": {"params": {"image_size": 64, "attention": [4, 2, 1], "efficient": True}}})
    content = vars(config)["_content"]
    state = instance_state(policy.trainable, layers, original=True)
    torch.save({"model": state, "config_dict": {"_content": content, "whole": config}}, tmp_path / "config.pth")
    assert_same(load_layers(tmp_path / "config.pth", policy.trainable), layers)


def test_the_ports_folder_and_its_file_are_read(policy: Policy, layers: InstanceLayers, tmp_path: Path) -> None:
    folder = save_port(tmp_path / "port", policy.trainable, layers)
    for source in (folder, folder / "unet", folder / "unet" / "diffusion_pytorch_model.safetensors"):
        assert_same(load_layers(source, policy.trainable), layers)


def test_layers_spliced_out_are_read_without_the_rest(policy: Policy, layers: InstanceLayers, tmp_path: Path) -> None:
    state = instance_state(policy.trainable, layers, original=False)
    own = policy.trainable.state_dict()
    save_file({name: tensor for name, tensor in state.items() if name not in own}, tmp_path / "spliced.safetensors")
    assert_same(load_layers(tmp_path / "spliced.safetensors", policy.trainable), layers)


def test_every_key_that_does_not_match_is_listed(policy: Policy, layers: InstanceLayers, tmp_path: Path) -> None:
    state = instance_state(policy.trainable, layers, original=True)
    del state["scaleu_s_3"], state["middle_block.1.transformer_blocks.0.fuser.alpha_attn"]
    state["extra.weight"] = torch.zeros(2)
    state["scaleu_b_0"] = torch.zeros(7)
    state["out.2.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "off.pth")
    with pytest.raises(CheckpointError) as caught:
        load_layers(tmp_path / "off.pth", policy.trainable)
    for told in (
        "2 missing ['middle_block.1.transformer_blocks.0.fuser.alpha_attn', 'scaleu_s_3']",
        "1 unknown ['extra.weight']",
        "2 of other shape",
        "scaleu_b_0 [7] for [32]",
        "out.2.bias [9] for [4]",
    ):
        assert told in str(caught.value)


def test_a_plain_stable_diffusion_is_told_to_hold_no_layers(policy: Policy, tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in policy.trainable.state_dict().items()}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="holds no layers of InstanceDiffusion"):
        load_layers(tmp_path / "plain.safetensors", policy.trainable)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code ran",)


def test_a_file_that_holds_code_is_refused_unrun(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {"weight": torch.zeros(1)}, "config_dict": Code()}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"holds code .* save its 'ema' or 'model' entry"):
        load_layers(tmp_path / "code.pth", policy.trainable)
    assert "code ran" not in capsys.readouterr().out


def test_a_file_that_is_not_there_is_told(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist: give the released file"):
        load_layers(tmp_path / "nowhere", policy.trainable)


@pytest.fixture(scope="module")
def released() -> dict[str, list[int]]:
    """Names and shapes that the layers have on Stable Diffusion 1.5 in its full size; no memory is taken."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        layers = InstanceLayers(unet, UniFusion())
    shapes = {name: list(tensor.shape) for name, tensor in layers.state_dict().items()}
    found = {theirs: shapes[ours] for theirs, ours in layer_names(layers, unet, original=True).items()}
    own = {original_name(name, unet): list(tensor.shape) for name, tensor in unet.state_dict().items()}
    assert not found.keys() & own.keys()
    return found | own


# Channels of the released model: 320, 640 and 1280 at the three finest levels, 1280 at the coarsest, without attention.
GATES = {
    **{
        f"input_blocks.{i}.1": width
        for i, width in zip((1, 2, 4, 5, 7, 8), (320, 320, 640, 640, 1280, 1280), strict=True)
    },
    "middle_block.1": 1280,
    **{
        f"output_blocks.{i}.1": width
        for i, width in zip(range(3, 12), (1280,) * 3 + (640,) * 3 + (320,) * 3, strict=True)
    },
}
SCALES = (1280,) * 7 + (640,) * 3 + (320,) * 2  # of the features that enter each output block


def test_gates_have_the_released_names_and_shapes(released: dict[str, list[int]]) -> None:
    assert sum(name.endswith("fuser.alpha_attn") for name in released) == len(GATES) == 16
    for block, width in GATES.items():
        gate = f"{block}.transformer_blocks.0.fuser"
        expected = {
            "alpha_attn": [],
            "alpha_dense": [],
            "linear.weight": [width, 768],
            "linear.bias": [width],
            "attn.to_q.weight": [width, width],
            "attn.to_k.weight": [width, width],
            "attn.to_v.weight": [width, width],
            "attn.to_out.0.weight": [width, width],
            "attn.to_out.0.bias": [width],
            "ff.net.0.proj.weight": [8 * width, width],
            "ff.net.0.proj.bias": [8 * width],
            "ff.net.2.weight": [width, 4 * width],
            "ff.net.2.bias": [width],
            "norm1.weight": [width],
            "norm1.bias": [width],
            "norm2.weight": [width],
            "norm2.bias": [width],
        }
        assert {n.removeprefix(f"{gate}."): s for n, s in released.items() if n.startswith(f"{gate}.")} == expected


def test_scales_have_the_released_names_and_shapes(released: dict[str, list[int]]) -> None:
    scales = {name: shape for name, shape in released.items() if name.startswith("scaleu")}
    assert scales == {f"scaleu_b_{i}": [width] for i, width in enumerate(SCALES)} | {
        f"scaleu_s_{i}": [1] for i in range(12)
    }


def test_unifusion_has_the_released_names_and_shapes(released: dict[str, list[int]]) -> None:
    net = {n.removeprefix("position_net."): s for n, s in released.items() if n.startswith("position_net.")}
    for index, width in enumerate((768 + 128, 768 + 64, 768 + 1280, 768 + 16384, 3072)):
        assert net[f"linears_list.{index}.0.weight"] == [3072, width]
        assert net[f"linears_list.{index}.2.weight"] == [3072, 3072]
        assert net[f"linears_list.{index}.4.weight"] == [768, 3072]
    nulls = {name: shape for name, shape in net.items() if name.startswith("null_")}
    assert nulls == {
        "null_positive_feature": [768],
        "null_position_feature": [128],
        "null_point_feature": [64],
        "null_scribble_feature": [1280],
        "null_polygon_feature": [16384],
        "null_seg_feature": [3072],
    }
    assert net["in_conv.weight"] == [3, 30, 3, 3]
    assert net["pos_embedding"] == [1, 64, 3072]
    backbone = {n.split(".", 1)[1]: s for n, s in net.items() if n.startswith("convnext_tiny_backbone.")}
    assert backbone["downsample_layers.0.0.weight"] == [96, 3, 4, 4]
    assert backbone["downsample_layers.0.1.weight"] == [96]
    assert backbone["downsample_layers.3.0.weight"] == [384]
    assert backbone["downsample_layers.3.1.weight"] == [768, 384, 2, 2]
    assert backbone["stages.2.8.dwconv.weight"] == [384, 1, 7, 7]
    assert backbone["stages.2.8.norm.weight"] == [384]
    assert backbone["stages.3.2.pwconv1.weight"] == [3072, 768]
    assert backbone["stages.3.2.pwconv2.weight"] == [768, 3072]
    assert backbone["stages.0.0.gamma"] == [96]
    assert sum(name.endswith(".gamma") for name in backbone) == 3 + 3 + 9 + 3
    assert len(backbone) == 4 * 4 + 18 * 9


def test_stable_diffusions_own_weights_have_the_released_names(released: dict[str, list[int]]) -> None:
    expected = {
        "time_embed.0.weight": [1280, 320],
        "input_blocks.0.0.weight": [320, 4, 3, 3],
        "input_blocks.3.0.op.weight": [320, 320, 3, 3],
        "input_blocks.4.0.skip_connection.weight": [640, 320, 1, 1],
        "input_blocks.11.0.in_layers.2.weight": [1280, 1280, 3, 3],
        "middle_block.2.out_layers.3.weight": [1280, 1280, 3, 3],
        "output_blocks.2.1.conv.weight": [1280, 1280, 3, 3],
        "output_blocks.5.2.conv.weight": [1280, 1280, 3, 3],
        "output_blocks.11.0.emb_layers.1.weight": [320, 1280],
        "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": [320, 768],
        "out.2.weight": [4, 320, 3, 3],
    }
    assert {name: released[name] for name in expected} == expected
    own = [n for n in released if not n.startswith(("position_net.", "scaleu_")) and ".fuser." not in n]
    assert len(own) == 686  # of Stable Diffusion 1's UNet


def test_what_the_hub_does_not_give_is_told_with_the_way_out(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no test asks the network
    for source in ("nobody/nothing-here:file.pth", "bad--/repo..id:file.pth"):
        with pytest.raises(CheckpointError, match=f"{source} could not be fetched.*give the file or folder here"):
            load_layers(source, policy.trainable)
