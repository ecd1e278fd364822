"""A stage of the pretraining that dies while it saves leaves nothing that a later run would take for finished."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from itercomp_rl.shapes.pretrain import Pretraining, Recipe, train_text, train_vae

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
