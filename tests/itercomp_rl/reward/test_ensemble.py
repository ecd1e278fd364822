"""Several aspects scored together are scored as apart, whatever they share."""

import copy

import pytest
import torch

from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.model import TextTokens
from itercomp_rl.reward.preference import freeze
from tests.parts.tiny_rewards import TOWER, images, texts, tiny_model


def three_aspects(fix_rate: float) -> RewardEnsemble:
    """Three models that learned apart from one trunk with its lower layers frozen."""
    trunk = tiny_model()
    models = {}
    for seed, aspect in enumerate(("attribute", "spatial", "non_spatial")):
        model = copy.deepcopy(trunk)
        freeze(model, fix_rate)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
        model.calibrate(torch.tensor([seed - 1.0, seed + 1.0]))
        models[aspect] = model.requires_grad_(False)
    return RewardEnsemble(models)


def tokens_of(ensemble: RewardEnsemble) -> dict[str, TextTokens]:
    return {aspect: texts(seed=i) for i, aspect in enumerate(ensemble.aspects)}


@pytest.mark.parametrize(("fix_rate", "shared"), [(0.0, 0), (0.4, 1), (0.7, 2), (1.0, 3)])
def test_aspects_score_together_as_apart_whatever_they_share(fix_rate: float, shared: int) -> None:
    ensemble = three_aspects(fix_rate)
    assert ensemble.num_shared_blocks == shared
    tokens = tokens_of(ensemble)
    image = images(height=20, width=20).requires_grad_()
    together = ensemble.score(image, tokens)
    apart = {aspect: ensemble.model(aspect).score(image, *tokens[aspect]) for aspect in tokens}
    assert together.keys() == apart.keys()
    assert all(torch.equal(together[aspect], apart[aspect]) for aspect in apart)
    (shared_gradient,) = torch.autograd.grad(torch.stack([*together.values()]).sum(), image)
    (gradient,) = torch.autograd.grad(torch.stack([*apart.values()]).sum(), image)
    torch.testing.assert_close(shared_gradient, gradient, rtol=1e-4, atol=1e-7)


def test_a_shared_block_that_is_written_or_thawed_is_shared_no_more() -> None:
    ensemble = three_aspects(0.7)
    assert ensemble.num_shared_blocks == 2
    weight = ensemble.model("spatial").get_parameter("vision.encoder.layers.1.mlp.fc2.bias")
    weight.requires_grad_(True)
    assert ensemble.num_shared_blocks == 1
    weight.requires_grad_(False)
    assert ensemble.num_shared_blocks == 2
    with torch.no_grad():
        weight[0] += 1
    assert ensemble.num_shared_blocks == 1
    tokens = tokens_of(ensemble)
    spatial = ensemble.model("spatial").score(images(), *tokens["spatial"])
    assert torch.equal(ensemble.score(images(), tokens)["spatial"], spatial)


def test_models_that_cut_the_image_otherwise_share_nothing() -> None:
    one, two = tiny_model(), tiny_model(vision={**TOWER, "patch_size": 4, "num_attention_heads": 2})
    two.load_state_dict(one.state_dict())
    other_mean = tiny_model(image_mean=(0.5, 0.5, 0.5))
    other_mean.load_state_dict(one.state_dict())
    for other in (two, other_mean):
        ensemble = RewardEnsemble({"a": one.requires_grad_(False), "b": other.requires_grad_(False)})
        assert ensemble.num_shared_blocks == 0


def test_an_ensemble_scores_only_the_aspects_asked_for() -> None:
    ensemble = three_aspects(0.7)
    tokens = tokens_of(ensemble)
    both = ensemble.score(images(), {aspect: tokens[aspect] for aspect in ("spatial", "attribute")})
    assert list(both) == ["spatial", "attribute"]
    whole = ensemble.score(images(), tokens)
    assert all(torch.equal(both[aspect], whole[aspect]) for aspect in both)
    assert torch.equal(ensemble.score(images(), {"spatial": tokens["spatial"]})["spatial"], whole["spatial"])


def test_an_ensemble_refuses_strangers_and_train_mode() -> None:
    ensemble = three_aspects(0.7)
    with pytest.raises(ValueError, match=r"aspect is 'style'.*\['attribute', 'spatial', 'non_spatial'\]"):
        ensemble.score(images(), {"style": texts()})
    ensemble.model("spatial").train()
    with pytest.raises(RuntimeError, match=r"eval\(\)"):
        ensemble.score(images(), tokens_of(ensemble))
    with pytest.raises(ValueError, match="one aspect or more"):
        RewardEnsemble({})
