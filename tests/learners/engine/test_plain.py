"""The plain engine by hand-worked numbers: AdamW, clipping, accumulation, moving average, bf16 masters, divergence."""

import math

import pytest
import torch

from itercomp_rl.errors import DivergedError
from learners.engine.open import open_engine
from learners.engine.spec import EngineSpec
from tests.parts.engine_rank import CPU, SETTINGS, Net, train
from tests.parts.scale import scale_engine, update, weight


def test_the_first_update_moves_each_weight_by_the_rate_and_the_average_follows() -> None:
    # Adam's first step is lr * sign(gradient): 1 - 0.1 and 2 + 0.1.
    # Average: its decay of 0.75 is lowered to (1 + 1) / (10 + 1) = 2/11 after the first step, so that it holds
    # 2/11 * 1 + 9/11 * 0.9 = 0.918182 and 2/11 * 2 + 9/11 * 2.1 = 2.081818.
    engine = scale_engine([1.0, 2.0], ema_decay=0.75)
    assert update(engine, [3.0, -4.0]) == pytest.approx({"grad_norm": 5.0, "lr": 0.1})
    assert weight(engine) == pytest.approx([0.9, 2.1])
    assert weight(engine, ema=True) == pytest.approx([0.918182, 2.081818], abs=1e-6)


def test_weights_decay_by_rate_times_decay_even_where_no_loss_reaches() -> None:
    engine = scale_engine([1.0], weight_decay=0.5)
    update(engine, [1.0])
    assert engine.weights()["unused"].item() == pytest.approx(1 - 0.1 * 0.5)


def test_clipping_shortens_a_gradient_to_the_limit_and_leaves_shorter_ones() -> None:
    # Two updates with norms 10 and 1, clipped at 2: gradients 2 and 1. Adam: m = 0.9 * 0.2 + 0.1 = 0.28,
    # v = 0.999 * 0.004 + 0.001 = 0.004996; step 2 = (0.28 / 0.19) / sqrt(0.004996 / 0.001999) = 0.932187
    engine = scale_engine([0.0], grad_clip=2.0)
    assert update(engine, [10.0])["grad_norm"] == pytest.approx(10.0)
    update(engine, [1.0])
    assert weight(engine) == pytest.approx([-0.1 * (1 + 0.932187)], rel=1e-4)


def test_gradients_of_several_losses_add() -> None:
    engine = scale_engine([1.0])
    for x in (1.0, 2.0):
        engine.backward(engine.module(torch.tensor([x])).sum())
    assert engine.step()["grad_norm"] == pytest.approx(3.0)


def test_updates_too_small_for_bf16_add_up_in_the_masters() -> None:
    engine = scale_engine([1.0], dtype="bf16", lr=1e-3)
    for _ in range(20):
        update(engine, [1.0])  # 20 steps of 0.001, where bf16 has nothing between 1 and 0.996
    assert weight(engine) == pytest.approx([0.98], abs=0.002)
    assert engine.module.get_parameter("weight").dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_and_forgotten(bad: float) -> None:
    engine = scale_engine([1.0], ema_decay=0.5)
    with pytest.raises(DivergedError, match="norm of update 0 is"):
        update(engine, [bad])
    assert (weight(engine), weight(engine, ema=True), engine.updates) == ([1.0], [1.0], 0)
    update(engine, [1.0])
    assert weight(engine) == pytest.approx([0.9])


def test_the_module_holds_the_average_only_while_it_is_swapped_in() -> None:
    engine = scale_engine([1.0], ema_decay=0.1)  # below (1 + 1) / (10 + 1), so that no warm-up lowers it
    update(engine, [1.0])  # from 1.0 to 0.9, of which the average takes .9
    with engine.ema_swapped():
        assert engine.module(torch.ones(1)).item() == pytest.approx(0.91)
    with pytest.raises(DivergedError), engine.ema_swapped():
        raise DivergedError
    assert engine.module(torch.ones(1)).item() == pytest.approx(0.9)


def test_without_an_average_the_weights_stand_in_for_it() -> None:
    engine = scale_engine([1.0])
    update(engine, [1.0])
    with engine.ema_swapped():
        assert engine.module(torch.ones(1)).item() == pytest.approx(0.9)
    assert weight(engine, ema=True) == weight(engine)


def test_frozen_parameters_stay_and_are_not_published() -> None:
    engine = open_engine(Net(seed=0), EngineSpec(kind="plain", **SETTINGS), None, CPU)
    train(engine, range(2))
    assert torch.equal(engine.module.get_parameter("stem.weight"), Net(seed=0).stem.weight)
    assert {name.split(".")[0] for name in engine.weights()} == {"body", "head", "spare"}


def test_weights_are_a_copy() -> None:
    engine = scale_engine([1.0])
    before = engine.weights()
    update(engine, [1.0])
    assert before["weight"].tolist() == [1.0]
