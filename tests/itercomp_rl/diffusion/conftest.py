"""One tiny checkpoint of each policy family, made once for all tests of this folder."""

from pathlib import Path

import pytest

from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Policy
from tests.parts.checkpoints import make_flux, make_sd, make_sd3, make_sdxl

MAKERS = {"sd": make_sd, "sdxl": make_sdxl, "sd3": make_sd3, "flux": make_flux}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per family name."""
    return {name: make(tmp_path_factory.mktemp("checkpoints") / name) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def policy(folders: dict[str, Path], family: str) -> Policy:
    """A freshly loaded policy of 16 px, of each family in turn."""
    return load_policy(folders[family], resolution_px=16)
