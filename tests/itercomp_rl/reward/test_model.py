from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers.models.blip.modeling_blip import BlipEncoderLayer

from itercomp_rl.errors import ConfigError
from itercomp_rl.reward.model import RewardConfig, RewardModel, TextTokens
from tests.parts.tiny_rewards import TOWER, images, texts, tiny_config, tiny_model


def transformers_features(model: RewardModel, image: Tensor, tokens: TextTokens) -> Tensor:
    """Token 0 by the library's own forward passes."""
    states = model.vision(image).last_hidden_state
    output = model.text(
        tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=states, is_decoder=False
    )
    return output.last_hidden_state[:, 0]


@pytest.mark.parametrize("seed", range(3))
def test_the_features_are_those_of_the_library(seed: int) -> None:
    model, tokens = tiny_model(seed), texts(seed=seed)
    image = model.preprocess(images(seed=seed))
    ours = model.text_features(model.encode_image(image), *tokens)
    torch.testing.assert_close(ours, transformers_features(model, image, tokens), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_in_training_the_text_encoder_is_as_noisy_as_the_library_makes_it() -> None:
    torch.manual_seed(0)
    model, tokens = tiny_model(), TextTokens(*(t.repeat(400, 1) for t in texts(1)))
    states = model.encode_image(model.preprocess(images(1))).repeat(400, 1, 1)
    model.text.train()
    ours = model.text_features(states, *tokens)
    theirs = model.text(*tokens, encoder_hidden_states=states).last_hidden_state[:, 0]
    assert float(ours.std(0).mean()) > 0.01
    assert float(ours.std(0).mean()) == pytest.approx(float(theirs.std(0).mean()), rel=0.05)


@torch.no_grad()
def test_in_training_a_vision_branch_is_skipped_or_scaled_up() -> None:
    torch.manual_seed(0)
    model = tiny_model(drop_path=0.5)
    block = cast(BlipEncoderLayer, model.vision.encoder.layers[2])
    hidden = model.vision_prefix(model.preprocess(images(64)), 2)
    attention, _ = block.self_attn(block.layer_norm1(hidden))
    block.mlp.fc2.weight.zero_()  # leaves the attention branch alone
    block.mlp.fc2.bias.zero_()
    whole = model.vision_suffix(hidden, 2)
    torch.testing.assert_close(whole, model.vision.post_layernorm(hidden + attention))
    drawn = model.train().vision_suffix(hidden, 2)
    is_skipped = torch.isclose(drawn, model.vision.post_layernorm(hidden), atol=1e-5).flatten(1).all(1)
    is_scaled = torch.isclose(drawn, model.vision.post_layernorm(hidden + 2 * attention), atol=1e-5).flatten(1).all(1)
    assert bool((is_skipped ^ is_scaled).all())
    assert 16 < int(is_skipped.sum()) < 48  # 64 coins: 32 +- 4


def test_padding_changes_nothing() -> None:
    model, tokens = tiny_model(), texts()
    other = TextTokens(tokens.input_ids + 5 * (1 - tokens.attention_mask), tokens.attention_mask)
    assert not torch.equal(other.input_ids, tokens.input_ids)
    torch.testing.assert_close(model.score(images(), *other), model.score(images(), *tokens))


def test_a_later_word_reaches_the_first_token() -> None:
    model, tokens = tiny_model(), TextTokens(torch.full((1, 8), 3), torch.ones(1, 8, dtype=torch.long))
    changed = tokens.input_ids.clone()
    changed[0, 7] = 4
    before, after = (model.score(images(1), ids, tokens.attention_mask) for ids in (tokens.input_ids, changed))
    assert not torch.allclose(before, after, atol=1e-4)


def test_captions_that_share_an_image_score_as_each_alone() -> None:
    model, first, second = tiny_model(), texts(seed=1), texts(seed=2)
    states = model.encode_image(model.preprocess(images()))
    both = TextTokens(*(torch.stack(pair, dim=1) for pair in zip(first, second, strict=True)))
    together = model.score_tokens(states, *both)
    apart = torch.stack([model.score_tokens(states, *first), model.score_tokens(states, *second)], dim=1)
    assert together.shape == (3, 2)
    torch.testing.assert_close(together, apart)


def test_images_do_not_see_each_other() -> None:
    model, tokens = tiny_model(), texts()
    alone = torch.cat([model.score(images()[i : i + 1], *(t[i : i + 1] for t in tokens)) for i in range(3)])
    torch.testing.assert_close(model.score(images(), *tokens), alone)


def test_the_gradient_in_the_image_is_the_slope_of_the_score() -> None:
    model, tokens = tiny_model().double(), texts()
    image = images(height=20, width=24).double().requires_grad_()
    raw = model(model.preprocess(image), *tokens).sum()
    (gradient,) = torch.autograd.grad(raw, image)
    direction, step = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).double(), 1e-5
    with torch.no_grad():
        up, down = (model(model.preprocess(image + s * direction), *tokens).sum() for s in (step, -step))
    torch.testing.assert_close((gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-5, atol=1e-9)


def test_an_image_of_the_target_size_is_only_normalised() -> None:
    model, image = tiny_model(), images()
    mean, std = torch.tensor(model.config.image_mean), torch.tensor(model.config.image_std)
    expected = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.equal(model.preprocess(image), expected)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (23, 37), (37, 23), (16, 40), (8, 9)])
def test_a_plain_colour_stays_plain_at_any_size(height: int, width: int) -> None:
    model = tiny_model(image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    image = torch.full((1, 3, height, width), 0.3)
    torch.testing.assert_close(model.preprocess(image), torch.full((1, 3, 16, 16), 0.3))


def test_a_wide_image_is_cropped_to_its_middle() -> None:
    model = tiny_model(image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    image = images(1, 16, 26)
    assert torch.equal(model.preprocess(image), image[..., 5:21])


@pytest.mark.parametrize("image", [torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 16)])
def test_images_of_another_form_are_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match="must be floats"):
        tiny_model().preprocess(image)


def test_a_caption_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"9 tokens.* 8 positions"):
        tiny_model().score(images(), *texts(length=9))


def test_a_score_in_train_mode_is_refused_even_if_only_the_head_is() -> None:
    model = tiny_model()
    model.mlp.train()
    for scorer in (lambda: model.score(images(), *texts()), model.train().require_eval):
        with pytest.raises(RuntimeError, match=r"eval\(\)"):
            scorer()


def test_scores_repeat_bit_for_bit() -> None:
    model = tiny_model()
    assert torch.equal(model.score(images(), *texts()), model.score(images(), *texts()))


def test_calibrated_scores_have_mean_zero_and_spread_one() -> None:
    model = tiny_model()
    raw = model(model.preprocess(images(12)), *texts(12)).detach()
    model.calibrate(raw)
    score = model.score(images(12), *texts(12)).detach()
    assert float(score.mean()) == pytest.approx(0, abs=1e-4)
    assert float(score.std()) == pytest.approx(1, abs=1e-4)


def test_calibration_is_part_of_the_weights() -> None:
    model, copied = tiny_model(), tiny_model(seed=1)
    model.calibrate(torch.tensor([1.0, 3.0]))
    copied.load_state_dict(model.state_dict())
    assert (float(copied.reward_mean), float(copied.reward_std)) == pytest.approx((2.0, 2.0**0.5))


@pytest.mark.parametrize("raw", [[1.0], [1.0, 1.0], [1.0, float("nan")]])
def test_calibration_on_too_little_is_refused(raw: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot calibrate"):
        tiny_model().calibrate(torch.tensor(raw))


def test_initial_weights_follow_from_the_seed_and_nothing_else() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = tiny_model(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), tiny_model(seed=3).parameters(), strict=True))
    assert not torch.equal(*(model.get_parameter("mlp.layers.0.weight") for model in (one, tiny_model(seed=4))))


def test_both_towers_start_alive() -> None:
    # the library's default for the vision tower has a spread of 1e-10
    model = tiny_model()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            assert float(weight.detach().std()) > 0.01, name


def test_the_official_head_starts_with_the_official_spread() -> None:
    weight = tiny_model(mlp_init="imagereward", mlp_widths=(1024, 16)).get_parameter("mlp.layers.0.weight")
    assert float(weight.detach().std()) == pytest.approx(1 / 33, rel=0.02)


def test_epsilons_are_those_of_blip_and_not_the_defaults_of_the_library() -> None:
    model = tiny_model()
    for tower, epsilon in ((model.vision, 1e-6), (model.text, 1e-12)):
        assert {norm.eps for norm in tower.modules() if isinstance(norm, nn.LayerNorm)} == {epsilon}


def test_default_sizes_are_those_of_imagereward() -> None:
    with torch.device("meta"):
        model = RewardModel(RewardConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    # ViT-L/16 at 224 px without its classifier has 303,301,632 weights. Text, with D = 768: embeddings 30524 D + 512 D
    # + 2 D; a layer 4 (D^2 + D) + 2 D, cross-attention 2 (D^2 + D) + 2 (1024 D + D) + 2 D, feed-forward 8 D^2 + 5 D
    # + 2 D. Head: 768-1024-128-64-16-1 with biases.
    text = 768 * 31038 + 12 * (14 * 768**2 + 2 * 1024 * 768 + 19 * 768)
    head = 769 * 1024 + 1025 * 128 + 129 * 64 + 65 * 16 + 17
    assert counts == {"vision": 303_301_632, "text": text, "mlp": head}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vision": {**TOWER, "patch_size": 4, "hiden_size": 8}}, "'hiden_size'.*did you mean hidden_size"),
        ({"vision": TOWER}, r"vision lacks \['patch_size'\]"),
        ({"text": {**TOWER, "vocab_size": 20}}, r"text lacks \['max_position_embeddings'\]"),
        ({"vision": {**TOWER, "patch_size": 5}}, "image_size is 16.*patch_size 5"),
        ({"vision": {**TOWER, "patch_size": 4, "num_attention_heads": 5}}, "hidden_size is 32"),
        ({"max_text_tokens": 9}, "max_text_tokens is 9"),
        ({"mlp_dropouts": (0.1, 0.1, 0.1)}, "mlp_dropouts"),
        ({"mlp_init": "zero"}, "mlp_init is 'zero'"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        tiny_config(**changes)
