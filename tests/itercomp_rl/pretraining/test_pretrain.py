"""The pretraining makes every shipped model from nothing; a stage that dies while it saves leaves nothing that a later
run would take for finished."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

from cluster.main import main
from itercomp_rl.pretraining.pretrain import MEMBERS, Pretraining, Recipe, train_text, train_vae
from itercomp_rl.reward.checkpoint import load_reward

SHORT = Recipe(text_steps=2, vae_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage"),
    [("text", train_text), ("vae", train_vae)],
)
def test_a_stage_that_could_not_save_is_made_anew(
    name: str, stage: Callable[[Pretraining], object], tmp_path: Path
) -> None:
    task = Pretraining(out=tmp_path, recipe=SHORT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(Exception, match="too large|os error 27"):  # safetensors has an error of its own
            stage(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (task.work / name).exists()
    stage(task)
    assert (task.work / name).exists()
    stage(task)  # as it was saved
    assert not list(task.work.glob(".*"))


@pytest.mark.slow
def test_one_command_makes_every_model_from_nothing_and_again_makes_none_anew(tmp_path: Path) -> None:
    command = ["shapes", "pretrain", "--out", str(tmp_path), "--scale", "0.0005", "--threads", "1"]
    assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
    for member in MEMBERS:
        StableDiffusionPipeline.from_pretrained(tmp_path / member)
    for trunk in ("trunk", "conv_trunk"):
        load_reward(tmp_path / trunk)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before
