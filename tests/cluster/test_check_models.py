"""Gallery members whose checkpoint cannot serve their system stop a run before anything starts."""

from pathlib import Path

import pytest

from cluster.launch import check_models
from itercomp_rl.config import load_config
from itercomp_rl.errors import CheckpointError
from tests.checkpoints import make_flux, make_sdxl


@pytest.mark.parametrize("system", ["rpg", "omost"])
def test_drawing_by_plan_needs_a_checkpoint_with_cross_attention(system: str, tmp_path: Path) -> None:
    planned = f"num_steps: 2, system: {system}, planner: rule"
    check_models(load_config("quickstart", [f"gallery.members.new={{model: {make_sdxl(tmp_path / 'xl')}, {planned}}}"]))
    flux = make_flux(tmp_path / "flux")
    with pytest.raises(CheckpointError, match=r"gallery.members.new.model .* a FluxPipeline"):
        check_models(load_config("quickstart", [f"gallery.members.new={{model: {flux}, {planned}}}"]))
    with pytest.raises(CheckpointError, match=r"gallery.members.new.model is 'policy', a FluxPipeline"):
        check_models(
            load_config("quickstart", [f"policy.model={flux}", f"gallery.members.new={{model: policy, {planned}}}"])
        )
