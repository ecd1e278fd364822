"""The reward model, number by number against a recording of the official code on random weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from itercomp_rl.errors import CheckpointError
from itercomp_rl.reward.checkpoint import load_official
from itercomp_rl.reward.model import RewardConfig, RewardModel

REWARD_TOLERANCE = 1e-5  # absolute
GRADIENT_TOLERANCE = 1e-4  # of the gradient's norm
FEATURE_TOLERANCE = 1e-4  # absolute; layer-normed features are of order 1


def recorded_config(folder: Path) -> tuple[RewardConfig, float, float]:
    told = json.loads((folder / "config.json").read_text())
    vision, med = told["vision"], told["med_config"]
    text_keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    text_keys += ("vocab_size", "max_position_embeddings", "hidden_dropout_prob", "attention_probs_dropout_prob")
    config = RewardConfig(
        vision={
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["heads"],
            "patch_size": vision["patch_size"],
            "layer_norm_eps": told["vision_layer_norm_eps"],
        },
        text={**{key: med[key] for key in text_keys}, "layer_norm_eps": told["text_layer_norm_eps"]},
        image_size=vision["image_size"],
        image_mean=tuple(told["image_mean"]),
        image_std=tuple(told["image_std"]),
        mlp_widths=tuple(told["mlp"]["hidden"][:-1]),
    )
    return config, told["reward_mean"], told["reward_std"]


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "reward"


@pytest.fixture(scope="module")
def model(folder: Path) -> RewardModel:
    config, mean, std = recorded_config(folder)
    return load_official(folder / "state_dict.safetensors", config, mean=mean, std=std)


@pytest.fixture(scope="module")
def recorded(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "io.safetensors")


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def check_reward(model: RewardModel, io: Mapping[str, Tensor]) -> None:
    ids, mask = io["input_ids"], io["attention_mask"]
    image = model.preprocess(io["image"])
    assert_near(image, io["image_preprocessed"], 1e-5)
    preprocessed = io["image_preprocessed"].clone().requires_grad_()
    tokens = model.encode_image(preprocessed)
    assert_near(tokens.detach(), io["image_embeds"], FEATURE_TOLERANCE)
    assert_near(model.text_features(tokens, ids, mask).detach(), io["text_features"], FEATURE_TOLERANCE)
    raw = model.score_tokens(tokens, ids, mask)
    assert_near(raw.detach(), io["reward_raw"].squeeze(1), REWARD_TOLERANCE)
    reward = model.standardise(raw)
    assert_near(reward.detach(), io["reward"].squeeze(1), REWARD_TOLERANCE)
    (gradient,) = torch.autograd.grad(reward.sum(), preprocessed)
    expected = io["grad_image_preprocessed"]
    assert (gradient - expected).norm() <= GRADIENT_TOLERANCE * expected.norm()
    assert_near(model.score(io["image"], ids, mask).detach(), io["reward"].squeeze(1), REWARD_TOLERANCE)


def test_preprocessing_features_reward_and_gradient_are_the_recorded_ones(
    model: RewardModel, recorded: dict[str, Tensor]
) -> None:
    check_reward(model, recorded)


@pytest.mark.parametrize(
    "name",
    [
        "image",
        "image_preprocessed",
        "image_embeds",
        "text_features",
        "reward_raw",
        "reward",
        "grad_image_preprocessed",
    ],
)
def test_a_recorded_tensor_off_by_a_thousandth_is_noticed(
    model: RewardModel, recorded: dict[str, Tensor], name: str
) -> None:
    scale = recorded[name].abs().max() if name == "grad_image_preprocessed" else 1.0
    off = recorded[name] + 1e-3 * scale
    with pytest.raises(AssertionError):
        check_reward(model, {**recorded, name: off})


@pytest.mark.parametrize(
    "part", [r"visual_encoder\.norm\.bias", r"layer\.\d+\.output\.LayerNorm\.bias", r"^mlp.+\.bias"]
)
def test_a_weight_off_by_a_hundredth_is_noticed(
    folder: Path, recorded: dict[str, Tensor], tmp_path: Path, part: str
) -> None:
    config, mean, std = recorded_config(folder)
    state = load_file(folder / "state_dict.safetensors")
    last = max((key for key in state if re.search(part, key)), key=lambda key: (len(key), key))
    state[last] = state[last].float() + 0.01
    save_file(state, tmp_path / "off.safetensors")
    with pytest.raises(AssertionError):
        check_reward(load_official(tmp_path / "off.safetensors", config, mean=mean, std=std), recorded)


def test_the_prefix_of_distributed_training_changes_nothing(
    folder: Path, recorded: dict[str, Tensor], tmp_path: Path
) -> None:
    prefix = json.loads((folder / "ddp_prefix.json").read_text())["prefix"]
    state = load_file(folder / "state_dict.safetensors")
    save_file({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "ddp.safetensors")
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "ddp.pt")
    config, mean, std = recorded_config(folder)
    for name in ("ddp.safetensors", "ddp.pt"):
        check_reward(load_official(tmp_path / name, config, mean=mean, std=std), recorded)


def test_one_weight_less_is_noticed_by_name(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "state_dict.safetensors")
    del state["blip.visual_encoder.norm.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \['blip\.visual_encoder\.norm\.bias'\]"):
        load_official(tmp_path / "less.safetensors", recorded_config(folder)[0])
