"""The convolutional reward model keeps the laws of every reward model, with its own layers."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel

from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.reward.checkpoint import export_reward, load_reward, load_reward_config, save_reward
from itercomp_rl.reward.conv import ConvConfig, ConvReward
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.preference import freeze
from itercomp_rl.reward.scorer import TextTokens
from tests.parts.tiny_rewards import images, tiny_model

PAD, END = 0, 19


def conv_config(**changes: Any) -> ConvConfig:
    config = ConvConfig(
        image_size=16,
        widths=(8, 16),
        feature_width=24,
        max_text_tokens=8,
        text={
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 8,
            "pad_token_id": PAD,
            "bos_token_id": 1,
            "eos_token_id": END,
        },
    )
    return replace(config, **changes)


def conv_model(seed: int = 0) -> ConvReward:
    return ConvReward(conv_config(), seed=seed).eval()


def captions(*rows: list[int]) -> TextTokens:
    """Words as ids, with the end mark behind, padded."""
    ids = torch.tensor([[*row, END] + [PAD] * (7 - len(row)) for row in rows])
    return TextTokens(ids, (ids != PAD).long())


THREE = captions([1, 2, 3], [1, 4], [1, 5, 6, 7, 2])


def test_a_prompt_changes_the_reward_and_its_padding_does_not() -> None:
    model, image = conv_model(), images(3)
    scores = model.score(image, *THREE)
    short = [
        model.score(image[i : i + 1], THREE.input_ids[i : i + 1, :6], THREE.attention_mask[i : i + 1, :6])
        for i in range(3)
    ]
    torch.testing.assert_close(scores, torch.cat(short))
    assert not torch.allclose(scores, model.score(image, *captions([1, 2, 4], [1, 3], [1, 5])))


def test_captions_of_one_image_score_as_one_by_one() -> None:
    model, image = conv_model(), images(2)
    ids = torch.stack([THREE.input_ids, THREE.input_ids.flip(0)])
    mask = torch.stack([THREE.attention_mask, THREE.attention_mask.flip(0)])
    together = model(model.preprocess(image), ids, mask)
    assert together.shape == (2, 3)
    for i in range(3):
        torch.testing.assert_close(together[:, i], model(model.preprocess(image), ids[:, i], mask[:, i]))


def test_the_image_gets_a_gradient_everywhere() -> None:
    model = conv_model()
    image = images(3, height=24, width=24).requires_grad_()
    (gradient,) = torch.autograd.grad(model.score(image, *THREE).sum(), image)
    assert (gradient.abs().sum(1) > 0).all()


@pytest.mark.parametrize(("fix_rate", "blocks"), [(0.0, 0), (0.5, 1), (1.0, 2)])
def test_the_text_encoder_and_the_lower_blocks_are_frozen(fix_rate: float, blocks: int) -> None:
    model = conv_model()
    frozen = set(freeze(model, fix_rate))
    named = dict(model.named_parameters())
    expected = {n for n in named if n.startswith(("text.", *(f"vision.{i}." for i in range(blocks))))}
    assert frozen == expected == {n for n, p in named.items() if not p.requires_grad}


@pytest.mark.parametrize(("fix_rate", "shared"), [(0.0, 0), (0.5, 1), (1.0, 2)])
def test_aspects_with_one_frozen_trunk_share_it_and_score_as_apart(fix_rate: float, shared: int) -> None:
    trunk, models = conv_model(), {}
    for seed, aspect in enumerate(("attribute", "spatial")):
        model = copy.deepcopy(trunk)
        freeze(model, fix_rate)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
        models[aspect] = model.requires_grad_(False)
    ensemble = RewardEnsemble(models)
    assert ensemble.num_shared_blocks == shared
    together = ensemble.score(images(3), dict.fromkeys(models, THREE))
    assert all(torch.equal(together[aspect], models[aspect].score(images(3), *THREE)) for aspect in models)


def test_two_kinds_of_reward_model_score_side_by_side_and_share_nothing() -> None:
    models = {"attribute": conv_model().requires_grad_(False), "spatial": tiny_model().requires_grad_(False)}
    ensemble = RewardEnsemble(models)
    assert ensemble.num_shared_blocks == 0
    assert set(ensemble.score(images(3), dict.fromkeys(models, THREE))) == set(models)


@pytest.mark.parametrize("write", [save_reward, export_reward])
def test_a_written_model_comes_back_the_same(write: Any, tmp_path: Path) -> None:
    model = conv_model(seed=3)
    model.calibrate(torch.tensor([1.0, 3.0]))
    write(model, tmp_path / "out")
    again = load_reward(tmp_path / "out")
    assert load_reward_config(tmp_path / "out") == again.config == model.config
    assert torch.equal(again.score(images(3), *THREE), model.score(images(3), *THREE))


def test_an_exports_text_encoder_loads_in_plain_transformers(tmp_path: Path) -> None:
    model = conv_model()
    export_reward(model, tmp_path / "out")
    text = CLIPTextModel.from_pretrained(tmp_path / "out" / "text")
    assert torch.equal(
        text(input_ids=THREE.input_ids).pooler_output, model.text(input_ids=THREE.input_ids).pooler_output
    )


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"image_size": 18}, "multiple of 4"), ({"widths": ()}, "one width or more"), ({"widths": (8, 12)}, "holds? 12")],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        conv_config(**wrong)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_reward(conv_model(), tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(file.read_text().replace('"feature_width": 24', '"feature_width": 32'))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_reward(tmp_path / "out")
