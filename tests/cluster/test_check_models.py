"""Gallery members whose checkpoint cannot serve their system stop a run before anything starts."""

import logging
from pathlib import Path

import pytest

from cluster.checks import check_models
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import CheckpointError, ConfigError
from tests.parts.checkpoints import make_flux, make_pixart, make_sdxl
from tests.parts.json_server import json_server
from tests.parts.judge_checkpoints import make_aesthetic_head, make_clip
from tests.parts.layout_checkpoints import make_gligen

RPG = "system: rpg, planner: rule"


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


def test_any_pipeline_can_draw_from_text_and_none_but_a_family_can_do_more(tmp_path: Path) -> None:
    pixart = make_pixart(tmp_path)
    check_models(load_config("quickstart", [f"gallery.members.new={{model: {pixart}, num_steps: 2}}"]))
    for override in (f"policy.model={pixart}", f"gallery.members.new={{model: {pixart}, num_steps: 2, {RPG}}}"):
        with pytest.raises(CheckpointError, match="is a PixArtAlphaPipeline checkpoint: a policy must be one of"):
            check_models(load_config("quickstart", [override]))
    (tmp_path / "model_index.json").write_text('{"_class_name": ["pipeline", "Own"]}')
    with pytest.raises(CheckpointError, match="code of a checkpoint's own is never run"):
        check_models(load_config("quickstart", [f"gallery.members.new={{model: {pixart}, num_steps: 2}}"]))


def test_gligen_carries_boxes_but_is_never_the_policy(tmp_path: Path) -> None:
    gligen = make_gligen(tmp_path / "gligen")
    boxes = "num_steps: 2, system: lmd, planner: rule"
    check_models(load_config("quickstart", [f"gallery.members.new={{model: {gligen}, {boxes}}}"]))
    with pytest.raises(CheckpointError, match=r"policy.model is .* can only be a gallery member"):
        check_models(load_config("quickstart", [f"policy.model={gligen}"]))
    with pytest.raises(CheckpointError, match=r"system 'lmd' needs an SD1.x or GLIGEN checkpoint"):
        sdxl = make_sdxl(tmp_path / "xl")
        check_models(load_config("quickstart", [f"gallery.members.new={{model: {sdxl}, {boxes}}}"]))


def test_a_variant_that_is_loaded_is_named_before_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sdxl = make_sdxl(tmp_path / "xl")
    for file in list(sdxl.rglob("*.safetensors")):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    with caplog.at_level(logging.INFO):
        check_models(load_config("quickstart", [f"gallery.members.new={{model: {sdxl}, num_steps: 2}}"]))
    assert f"loading the fp16 variant of {sdxl}, which has no plain weights" in caplog.text


def test_fixed_scorers_are_loaded_and_asked_as_far_as_it_costs_little_before_a_run(tmp_path: Path) -> None:
    head = make_aesthetic_head(make_clip(tmp_path / "clip") / "head.pth", 16)
    own, term = "python:tests.parts.custom_scorers", "policy.frozen_rewards.extra.source"
    with json_server(lambda body: (200, {"scores": [1.0 for _ in body["images"]]})) as (url, asked):
        good = [
            *("judge.first_round=reward", f"judge.reward_models.attribute={url}", f"{term}={own}:Brightness"),
            *(f"judge.reward_models.spatial={own}:WordCount", f"judge.reward_models.non_spatial=aesthetic:{head}"),
            f"evaluation.metrics.look=clipscore:{tmp_path / 'clip'}",
        ]
        check_models(load_config("tiny", good))
        assert len(asked) == 1
    bad = {
        f"{term}={own}:WordCount": rf"{term} is .* not differentiable",
        f"evaluation.metrics.look={own}:Nobody": r"evaluation\.metrics\.look is .* cannot be imported",
        f"evaluation.metrics.look=pickscore:{tmp_path}": r"evaluation\.metrics\.look is .* has no config.json",
        f"reward.trunk=hpsv2:{tmp_path / 'none.pt'}": r"reward\.trunk is .*none\.pt",
    }
    for override, reason in bad.items():
        with pytest.raises((ConfigError, CheckpointError), match=reason):
            check_models(load_config("tiny", [override]))
