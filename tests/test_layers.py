"""Imports point down only: cluster -> actors -> learners -> itercomp_rl; DeepSpeed has one home and Ray stays above."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("itercomp_rl", "learners", "actors", "cluster")
FILES = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]

# Here torch.load with weights_only raises the pickle module's error; only that class is imported.
PICKLE_ERROR = Path("itercomp_rl/files/tensors.py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_nothing_from_a_layer_above(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(path) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_and_deepspeed_stay_in_their_homes(path: Path) -> None:
    names, place = imported(path), path.relative_to(ROOT)
    if place.parts[0] in ("itercomp_rl", "learners"):
        assert "ray" not in names
    if place != Path("learners/engine/zero.py"):
        assert "deepspeed" not in names
    assert "pickle" not in names or place == PICKLE_ERROR
