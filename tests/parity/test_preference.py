"""The pair loss, the pairs and the frozen weights, against recordings of the official training code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from itercomp_rl.ranking.official import places_of_rank
from itercomp_rl.ranking.ranking import Ranking, pairs_of
from itercomp_rl.reward.checkpoint import official_names
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.reward.preference import freeze, pair_accuracy, preference_loss

LOSS_TOLERANCE = 1e-6  # relative above 1, absolute below: losses reach 27


@pytest.fixture(scope="module")
def losses(parity_dir: Path) -> list[dict[str, Tensor]]:
    tensors = load_file(parity_dir / "preference" / "loss.safetensors")
    cases: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".")
        cases.setdefault(number, {})[name] = tensor
    return list(cases.values())


@pytest.fixture(scope="module")
def pairs(parity_dir: Path) -> dict[str, Any]:
    return json.loads((parity_dir / "preference" / "pairs.json").read_text())


@pytest.fixture(scope="module")
def freezes(parity_dir: Path) -> list[dict[str, Any]]:
    return json.loads((parity_dir / "preference" / "freeze.json").read_text())["cases"]


def check_loss(case: Mapping[str, Tensor]) -> None:
    rewards = case["rewards"].clone().requires_grad_()
    loss = preference_loss(rewards[:, 0], rewards[:, 1])
    loss.backward()
    one_by_one = torch.stack([preference_loss(row[:1], row[1:]) for row in case["rewards"]])
    accuracy = torch.tensor(pair_accuracy(case["rewards"][:, 0], case["rewards"][:, 1]))
    found = {"loss": loss.detach(), "loss_list": one_by_one, "grad": rewards.grad, "acc": accuracy}
    for name, value in found.items():
        torch.testing.assert_close(value, case[name], rtol=LOSS_TOLERANCE, atol=LOSS_TOLERANCE)


def numbered_pairs(rank: Sequence[int], touching: set[int] | None = None) -> list[list[int]]:
    gallery = [str(n) for n in range(1, max(rank) + 1)]
    ranking = Ranking(prompt_id="0", aspect="attribute", places=places_of_rank(rank, gallery))
    pairs = [[int(pair.winner), int(pair.loser)] for pair in pairs_of(ranking)]
    return [pair for pair in pairs if touching is None or touching.intersection(pair)]


def narrow_model(text_layers: int, vision_blocks: int) -> RewardModel:
    tower = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
    config = RewardConfig(
        image_size=8,
        vision={**tower, "num_hidden_layers": vision_blocks, "patch_size": 8},
        text={**tower, "num_hidden_layers": text_layers, "vocab_size": 8, "max_position_embeddings": 4},
        max_text_tokens=4,
        mlp_widths=(4, 4, 4, 4),
    )
    with torch.device("meta"):  # only names and flags are looked at
        return RewardModel(config)


def check_freeze(case: Mapping[str, Any]) -> None:
    model = narrow_model(case["text_layers"], case["vision_blocks"])
    returned = freeze(model, case["fix_rate"], vision_depth=24, text_depth=12)
    parameters = dict(model.named_parameters())
    flags = {theirs: parameters[ours].requires_grad for theirs, ours in official_names(model.config).items()}
    assert len(flags) == len(parameters)

    def used(names: Sequence[str]) -> list[str]:
        return [name for name in names if name.split(".")[1] not in ("vision_proj", "text_proj")]

    assert [name for name, trainable in flags.items() if not trainable] == used(case["frozen"])
    assert [name for name, trainable in flags.items() if trainable] == used(case["trainable"])
    assert returned == used(case["frozen"])


def test_loss_gradient_and_accuracy_are_the_recorded_ones(losses: list[dict[str, Tensor]]) -> None:
    assert losses
    for case in losses:
        check_loss(case)


@pytest.mark.parametrize("name", ["rewards", "loss", "loss_list", "grad", "acc"])
def test_a_recorded_number_off_by_a_hundredth_is_noticed(losses: list[dict[str, Tensor]], name: str) -> None:
    for case in losses:
        off = case[name].clone()
        off.view(-1)[0] -= 0.01
        if name == "rewards" and bool((case["grad"][0].abs() < 1e-3).all()):
            continue  # a saturated pair: neither its loss nor its gradient can show the change
        with pytest.raises(AssertionError):
            check_loss({**case, name: off})


def test_the_pairs_of_a_full_ranking_are_the_recorded_ones_in_order(pairs: dict[str, Any]) -> None:
    assert pairs["full"]
    for case in pairs["full"]:
        assert numbered_pairs(case["rank"]) == case["pairs"]
        assert len(case["pairs"]) == case["count"]


def test_pairs_touching_chosen_models_are_the_recorded_ones(pairs: dict[str, Any]) -> None:
    assert pairs["iterative"]
    for case in pairs["iterative"]:
        newest = len(case["rank"])
        assert numbered_pairs(case["rank"], {newest - 1, newest}) == case["pairs_touching_the_two_new_models"]
        # the official code keeps the models numbered like the round, whatever they are
        assert numbered_pairs(case["rank"], {case["iteration"] - 1, case["iteration"]}) == case["official_pairs"]


def test_frozen_weights_are_the_recorded_ones(freezes: list[dict[str, Any]]) -> None:
    assert freezes
    for case in freezes:
        check_freeze(case)


def test_one_weight_recorded_as_trainable_instead_of_frozen_is_noticed(freezes: list[dict[str, Any]]) -> None:
    case = next(case for case in freezes if any("encoder" in name for name in case["frozen"]))
    moved = next(name for name in reversed(case["frozen"]) if "encoder" in name)
    perturbed = {**case, "frozen": [n for n in case["frozen"] if n != moved], "trainable": [moved, *case["trainable"]]}
    with pytest.raises(AssertionError):
        check_freeze(perturbed)
