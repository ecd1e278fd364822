"""The ablation benchmark: its variants are configs that load, its models are what they say, its measures are right."""

from pathlib import Path

import pytest
import torch
from ablation_models import make_little_data_base, make_random_trunk
from ablations import VARIANTS, measures_of, settings_of
from gains import gains_over
from safetensors.torch import load_file

from itercomp_rl.config.load import load_config
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.files.checkpoint_path import checkpoint_path


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_the_quickstart_with_something_changed(variant: str, tmp_path: Path) -> None:
    config = load_config("quickstart", settings_of(variant, tmp_path))
    assert (config == load_config("quickstart")) == (variant == "full")


def test_one_long_round_makes_as_many_updates_as_all_rounds_together() -> None:
    whole = load_config("quickstart")
    long = load_config("quickstart", settings_of("one-long-round", Path()))
    assert long.run.rounds * long.policy.updates == whole.run.rounds * whole.policy.updates


def test_a_random_trunk_has_the_numbers_of_the_shipped_one_in_another_order(tmp_path: Path) -> None:
    make_random_trunk(tmp_path / "trunk")
    shipped = Path(checkpoint_path(load_config("quickstart").reward.trunk))
    files = sorted(file.relative_to(shipped) for file in shipped.rglob("*") if file.is_file())
    assert files == sorted(f.relative_to(tmp_path / "trunk") for f in (tmp_path / "trunk").rglob("*") if f.is_file())
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert weights
    for file in weights:
        old, new = load_file(shipped / file), load_file(tmp_path / "trunk" / file)
        assert {name: tensor.shape for name, tensor in old.items()} == {name: t.shape for name, t in new.items()}
        assert all(torch.equal(old[name].flatten().sort()[0], new[name].flatten().sort()[0]) for name in old)
        moved = [name for name in old if not torch.equal(old[name], new[name])]
        assert sum(old[name].numel() for name in moved) > 0.9 * sum(tensor.numel() for tensor in old.values())


def results(gain: float) -> dict:
    cells = {"attribute": gain, "spatial": gain + 0.2}
    aspects = {name: {"paired_gain": {"mean": mean, "se": 0.02}} for name, mean in cells.items()}
    return {"aspects": aspects, "denoising_loss": {"paired_change_by_round": [{"mean": 0.5, "se": 0.1, "n": 9}]}}


def test_measures_of_a_run_are_its_gains_with_their_errors_and_aims() -> None:
    found = {one["name"]: one for one in measures_of("full", "seed 0", results(0.1))}
    assert set(found) == {
        *(f"full/seed 0/{what} gain" for what in ("attribute", "spatial", "mean")),
        "full/seed 0/change of the denoising loss",
    }
    mean = found["full/seed 0/mean gain"]
    assert mean["value"] == pytest.approx(0.2)
    assert (mean["se"], mean["aim"], mean["better"], mean["unit"]) == (0.02, 0.25, "higher", "score")
    assert found["full/seed 0/change of the denoising loss"]["value"] == 0.5
    control = measures_of("random-reward", "seed 0", results(0.1))[0]
    assert (control["aim"], control["better"]) == (0.0, "lower")


def test_over_runs_the_error_is_that_of_the_spread() -> None:
    assert gains_over([results(0.1)["aspects"]]) == {}
    found = gains_over([results(gain)["aspects"] for gain in (0.1, 0.3)])
    # Two values 0.2 apart: standard deviation .1414, over the root of 2 = .1.
    assert found == {
        "attribute": pytest.approx((0.2, 0.1)),
        "spatial": pytest.approx((0.4, 0.1)),
        "mean": pytest.approx((0.3, 0.1)),
    }


@pytest.mark.slow
# diffusers wants a steps_offset of 1 in every Stable Diffusion; steps that are counted from the end have none.
@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_a_base_made_from_few_pictures_draws(tmp_path: Path) -> None:
    make_little_data_base(tmp_path / "little", num_pictures=500, num_steps=2)
    policy = load_policy(tmp_path / "little", dtype="fp32", device=torch.device("cpu"))
    assert policy.draw(["a red circle left of a blue square"], [0], 2).shape == (1, 32, 32, 3)
