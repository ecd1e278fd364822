"""Imports point down: between the layers, between the packages of itercomp_rl, and from file to file without a circle.

DeepSpeed has one home, Ray stays above itercomp_rl and the learners, and nothing is unpickled.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("itercomp_rl", "learners", "actors", "cluster")
FILES = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

# What stands in itercomp_rl, from the ground up: each may import what is before it, and itself.
FLOORS = (
    "errors",
    "seeds",
    "items",
    "network",
    "files",
    "store",
    "config",
    "shapes",
    "prompt_sets",
    "prompts",
    "plan",
    "ranking",
    "diffusion",
    "reward",
    "gallery",
    "evaluation",
    "judges",
    "loop",
    "observability",
    "run",
    "report",
    "forecast",
    "pretraining",
)

# Here torch.load with weights_only raises the pickle module's error; only that class is imported.
PICKLE_ERROR = Path("itercomp_rl/files/tensors.py")


def imported(path: Path) -> set[str]:
    """Dotted names of all that a file imports, anywhere in it; a module of ours by the module's own name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in full}
    return names


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_nothing_from_a_layer_above(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not roots(path) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_and_deepspeed_stay_in_their_homes(path: Path) -> None:
    names, place = roots(path), path.relative_to(ROOT)
    if place.parts[0] in ("itercomp_rl", "learners"):
        assert "ray" not in names
    if place != Path("learners/engine/zero.py"):
        assert "deepspeed" not in names
    assert "pickle" not in names or place == PICKLE_ERROR


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


@pytest.mark.parametrize("name", FLOORS)
def test_a_package_imports_only_packages_below_it(name: str) -> None:
    own = [path for module, path in MODULES.items() if module.split(".")[:2] == ["itercomp_rl", name]]
    assert own, f"itercomp_rl has no {name}"
    above = {
        f"{path.relative_to(ROOT)} -> {other}"
        for path in own
        for other in imported(path)
        if other.startswith("itercomp_rl.") and floor(other) > FLOORS.index(name)
    }
    assert not above


def test_every_file_stands_on_a_floor_and_few_are_loose() -> None:
    inside = {module.split(".")[1] for module in MODULES if module.startswith("itercomp_rl.")}
    assert inside == set(FLOORS)
    loose = [path.name for path in (ROOT / "itercomp_rl").glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= 6, f"{sorted(loose)}: a package named for what it holds takes the next one"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: imported(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of files: {' <- '.join(error.args[1])}")


def test_learners_import_no_judges() -> None:
    found = {name for path in (ROOT / "learners").rglob("*.py") for name in imported(path)}
    assert not [name for name in found if name.startswith("itercomp_rl.judges")]
