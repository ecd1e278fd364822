"""What each part of the loop is worth: the quickstart run again with one thing changed, over seeds; minutes to hours.

python benchmarks/ablations.py --variants full no-reward --seeds 0 1 --json ablations.json
Runs that are there already (under --dir) are read, not repeated.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

# Each variant states only its difference from configs/quickstart.yaml.
VARIANTS: dict[str, list[str]] = {
    "full": [],
    "no-reward": ["policy.loss_scale=0.0"],
    "attribute-only": ["reward.weights.spatial=0", "reward.weights.non_spatial=0"],
    "spatial-only": ["reward.weights.attribute=0", "reward.weights.non_spatial=0"],
    "non-spatial-only": ["reward.weights.attribute=0", "reward.weights.spatial=0"],
    "no-pretraining-loss": ["policy.pretraining_weight=0"],
    "late-steps": ["policy.mid_low=6", "policy.mid_high=9"],
    "one-long-round": ["run.rounds=1", "policy.updates=360"],
    "frozen-rewards": ["reward.refresh=false"],
    "flip-10": ["judge.flip=0.1"],
    "flip-20": ["judge.flip=0.2"],
}


def main() -> None:
    """Run what is missing, then write the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    measures, versions = [], {}
    for variant in options.variants:
        for seed in options.seeds:
            tree = result(variant, seed, options.dir)
            versions = tree["versions"]
            for aspect, found in tree["aspects"].items():
                gain = found["paired_gain"]
                name = f"{variant}/seed {seed}/{aspect} gain"
                measures.append(
                    {
                        "name": name,
                        "value": gain["mean"],
                        "aim": 0.15,
                        "better": "higher",
                        "unit": "score",
                        "se": gain["se"],
                    }
                )
                print(f"{name}: {gain['mean']:+.3f} ± {gain['se']:.3f}")
    machine = {"processor": platform.processor(), "system": platform.platform()}
    options.json.write_text(json.dumps({"measures": measures, "machine": machine, "versions": versions}, indent=2))


def result(variant: str, seed: int, folder: Path) -> dict:
    """results.json of a variant, run first (or resumed) if it is not there."""
    name = f"{variant}-{seed}"
    file = folder / name / "results.json"
    if not file.exists():
        command = [sys.executable, "-m", "cluster.main", "run", "quickstart", "--resume"]
        settings = [f"run.name={name}", f"run.dir={folder}", f"run.seed={seed}", *VARIANTS[variant]]
        subprocess.run([*command, *settings], check=True)
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
