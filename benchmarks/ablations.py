"""What each part of the loop is worth: the quickstart run again with one thing changed, over seeds; minutes to hours.

python benchmarks/ablations.py --json ablations.json --variants full no-reward random-reward --seeds 0 1 2
Runs that are there already (under --dir) are read, not repeated; a killed one is resumed. What an earlier run of the
same seed drew and learned just as the next would is copied (itercomp run --reuse).
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from ablation_models import MODELS, QUICKSTART
from gains import gains_of, gains_over
from measures import measure, write
from variants import result

_UPDATES = QUICKSTART.run.rounds * QUICKSTART.policy.updates
_STEPS = QUICKSTART.policy.num_steps

# Each variant states only its difference from configs/quickstart.yaml. {NAME} is a model of ablation_models.py, made
# first.
VARIANTS: dict[str, list[str]] = {
    "full": [],
    "no-reward": ["policy.loss_scale=0.0"],
    "random-reward": ["reward.trunk={random-trunk}", "reward.updates=0", "reward.min_accuracy=0.0"],
    "attribute-only": ["reward.weights.spatial=0", "reward.weights.non_spatial=0"],
    "spatial-only": ["reward.weights.attribute=0", "reward.weights.non_spatial=0"],
    "non-spatial-only": ["reward.weights.attribute=0", "reward.weights.spatial=0"],
    "no-pretraining-loss": ["policy.pretraining_weight=0"],
    "late-steps": [f"policy.mid_low={_STEPS - 4}", f"policy.mid_high={_STEPS - 1}"],
    "one-long-round": ["run.rounds=1", f"policy.updates={_UPDATES}"],
    "frozen-rewards": ["reward.refresh=false"],
    # An upper bound: a scorer that knows the whole world before any pair is drawn, in the setting that suits it.
    "upper-bound": [
        *("reward.trunk=embedded:conv_trunk", "run.rounds=3", "policy.updates=80", "prompts.gallery=400"),
        *("judge.later_rounds=reward", "reward.updates=100", "reward.centering=0", "reward.weights.attribute=1"),
        *("reward.engine.lr=1e-4", "reward.engine.lr_schedule=constant", "policy.aspect_gradients=sum"),
    ],
    "not-centered": ["reward.centering=0"],
    "gradients-added": ["policy.aspect_gradients=sum"],
    "slow-rewards": ["reward.engine.lr=1e-4", "reward.engine.lr_schedule=constant"],
    "flip-10": ["judge.flip=0.1"],
    "flip-20": ["judge.flip=0.2"],
    # Bradley-Terry alone: no matching, no naming, nothing that the renderer knows; every layer learns, for longer.
    "pairs-only": [
        "reward.trunk={random-trunk}",
        "reward.fix_rate=0.0",
        "reward.updates=600",
        "reward.min_accuracy=0.0",
    ],
    "little-data-base": ["policy.model={little-data}", "gallery.members.base.model={little-data}"],
}
# No gain is what these must show; elsewhere more is better.
CONTROLS = ("no-reward", "random-reward")


def settings_of(variant: str, folder: Path) -> list[str]:
    """The overrides of a variant, its own models lying in `folder`."""
    return [_with_models(setting, {name: str(folder / name) for name in MODELS}) for setting in VARIANTS[variant]]


def _with_models(setting: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        setting = setting.replace(f"{{{name}}}", place)
    return setting


def main() -> None:
    """Run what is missing, then write the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measures, models = [], (options.dir / "models").absolute()
    variants = {variant: settings_of(variant, models) for variant in VARIANTS}
    for variant in options.variants:
        make_models(variants[variant], models)
        results = {seed: result("quickstart", variants, variant, seed, options.dir) for seed in options.seeds}
        for seed, tree in results.items():
            measures += measures_of(variant, f"seed {seed}", tree)
        over = gains_over([tree["aspects"] for tree in results.values()])
        measures += [_gain(variant, f"{len(results)} seeds/{name} gain", *gain) for name, gain in over.items()]
        write(options.json, measures)  # after every variant: hours lie between the first and the last


def measures_of(variant: str, run: str, tree: dict[str, Any]) -> list[dict[str, Any]]:
    """One run: the paired gain of each aspect and of their mean, and what was forgotten."""
    found = [_gain(variant, f"{run}/{name} gain", *gain) for name, gain in gains_of(tree["aspects"]).items()]
    if changes := tree.get("denoising_loss", {}).get("paired_change_by_round"):
        last = changes[-1]
        name = f"{variant}/{run}/change of the denoising loss"
        found.append(measure(name, last["mean"], "mean squared error", se=last["se"]))
    return found


def _gain(variant: str, name: str, value: float, se: float) -> dict[str, Any]:
    if variant in CONTROLS:
        return measure(f"{variant}/{name}", value, "score", aim=0.0, better="lower", se=se)
    aim = (0.25 if name.endswith("mean gain") else 0.15) if variant == "full" else None
    return measure(f"{variant}/{name}", value, "score", aim=aim, better="higher", se=se)


def make_models(settings: list[str], folder: Path) -> None:
    """Make the models in `folder` that the settings name and that are not there yet."""
    for model, make in MODELS.items():
        place = folder / model
        if not place.exists() and any(str(place) in setting for setting in settings):
            make(place)


if __name__ == "__main__":
    main()
