"""One tiny Stable Diffusion 1, and InstanceDiffusion's layers for it."""

from pathlib import Path

import pytest

from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.gallery.instance_diffusion.layers import InstanceLayers
from tests.parts.layout_checkpoints import make_layers, make_sd1


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd1(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="session")
def policy(sd1: Path) -> Policy:
    return load_policy(sd1)


@pytest.fixture
def layers(policy: Policy) -> InstanceLayers:
    return make_layers(policy.trainable).requires_grad_(False)
