import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from itercomp_rl.errors import ConfigError
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.reward.preference import centering_loss, freeze, pair_accuracy, preference_loss


def tiny_model(vision_blocks: int = 4, text_layers: int = 2) -> RewardModel:
    tower = {"hidden_size": 8, "num_attention_heads": 2}
    return RewardModel(
        RewardConfig(
            image_size=8,
            vision={**tower, "num_hidden_layers": vision_blocks, "patch_size": 4},
            text={**tower, "num_hidden_layers": text_layers, "vocab_size": 8, "max_position_embeddings": 4},
            max_text_tokens=4,
            mlp_widths=(8, 4),
            mlp_dropouts=(0.1,),
            mlp_init="unit_gain",
        )
    )


def random_pairs(seed: int, num: int = 9) -> tuple[Tensor, Tensor]:
    winner, loser = torch.randn(2, num, generator=torch.Generator().manual_seed(seed))
    return winner, loser


def test_equal_rewards_cost_log_two() -> None:
    same = torch.tensor([0.3, -2.0, 7.0])
    torch.testing.assert_close(preference_loss(same, same), torch.tensor(math.log(2)))


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_knows_only_differences(seed: int) -> None:
    winner, loser = random_pairs(seed)
    torch.testing.assert_close(preference_loss(winner + 5, loser + 5), preference_loss(winner, loser))


@pytest.mark.parametrize("seed", range(5))
def test_turning_a_pair_round_costs_its_difference(seed: int) -> None:
    # softplus(-d) - softplus(d) = -d
    winner, loser = random_pairs(seed, 1)
    change = preference_loss(winner, loser) - preference_loss(loser, winner)
    torch.testing.assert_close(change, (loser - winner)[0])


def test_the_loss_is_the_hand_worked_number() -> None:
    # differences 1 and -2: log(1 + e^-1) = .313262, log(1 + e^2) = 2.126928; mean 1.220095
    loss = preference_loss(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    assert float(loss) == pytest.approx(1.220095, abs=1e-6)


def test_pairs_around_zero_are_centred_and_others_cost_the_square_of_their_sum() -> None:
    gap = torch.tensor([0.5, -2.0])
    assert float(centering_loss(gap, -gap)) == 0
    # sums 3 and -1: (9 + 1) / 2
    assert float(centering_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, -1.0]))) == pytest.approx(5)


@pytest.mark.parametrize("seed", range(5))
def test_centring_moves_both_rewards_of_a_pair_alike(seed: int) -> None:
    winner, loser = (x.requires_grad_() for x in random_pairs(seed))
    centering_loss(winner, loser).backward()
    assert winner.grad is not None and loser.grad is not None
    torch.testing.assert_close(winner.grad, loser.grad)


def test_a_gradient_step_widens_the_gap() -> None:
    winner, loser = (x.requires_grad_() for x in random_pairs(0))
    preference_loss(winner, loser).backward()
    assert winner.grad is not None
    assert loser.grad is not None
    assert bool((winner.grad < 0).all())
    torch.testing.assert_close(loser.grad, -winner.grad)


def test_half_precision_rewards_are_summed_in_single() -> None:
    winner, loser = torch.zeros(4096, dtype=torch.float16), torch.ones(4096, dtype=torch.float16)
    loss = preference_loss(winner, loser)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(math.log1p(math.e), rel=1e-6)


def test_a_hopeless_pair_costs_its_gap_and_not_infinity() -> None:
    assert float(preference_loss(torch.tensor([0.0]), torch.tensor([1e4]))) == pytest.approx(1e4)


def test_a_tie_is_not_a_right_answer() -> None:
    assert pair_accuracy(torch.tensor([1.0, 1.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 1.0, 2.0])) == 0.5


@pytest.mark.parametrize("measure", [preference_loss, centering_loss, pair_accuracy])
@pytest.mark.parametrize("shapes", [((0,), (0,)), ((2,), (3,)), ((2, 1), (2, 1))])
def test_rewards_that_are_no_pairs_are_refused(
    measure: Callable[[Tensor, Tensor], object], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    with pytest.raises(ValueError, match="K above 0"):
        measure(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_freezing_half_leaves_the_upper_half_and_the_head() -> None:
    model = tiny_model()
    freeze(model, 0.5)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {f"vision.encoder.layers.{i}.mlp.fc1.weight" for i in (0, 1)} < frozen
    assert "vision.encoder.layers.2.layer_norm1.weight" in frozen  # the first weight of the first trainable layer too
    assert "vision.encoder.layers.2.layer_norm1.bias" not in frozen
    assert "text.encoder.layer.0.output.LayerNorm.bias" in frozen
    assert "text.encoder.layer.1.output.LayerNorm.bias" not in frozen
    assert not any(name.startswith("mlp.") for name in frozen)


def test_freezing_nothing_and_everything() -> None:
    model = tiny_model()
    freeze(model, 1.0)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"mlp"}
    assert freeze(model, 0.0) == []
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rates", [(0.2, 0.5), (0.5, 0.75), (0.75, 1.0)])
def test_a_higher_rate_only_freezes_more(rates: tuple[float, float]) -> None:
    model = tiny_model()
    less, more = (set(freeze(model, rate)) for rate in rates)
    assert less < more


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="fix_rate"):
        freeze(tiny_model(), rate)
