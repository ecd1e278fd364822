"""Checkpoints of a learner: the newest counts, two are kept, and one that cannot be written harms none."""

import resource
from pathlib import Path

import pytest
import torch

from itercomp_rl.errors import CheckpointError
from learners.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from learners.engine.engine import Engine
from learners.engine.open import open_engine
from learners.engine.spec import EngineSpec


def learner() -> Engine:
    torch.manual_seed(0)
    spec = EngineSpec(kind="plain", lr=1e-2)
    return open_engine(torch.nn.Linear(64, 64), spec, None, torch.device("cpu"))


def learn(engine: Engine) -> None:
    engine.backward(engine.module(torch.ones(1, 64)).square().sum())
    engine.step()


def test_the_newest_two_are_kept_and_the_newest_counts(tmp_path: Path) -> None:
    engine = learner()
    for _ in range(4):
        learn(engine)
        save_checkpoint(engine, tmp_path, "r000")
        save_checkpoint(engine, tmp_path, "r000")  # of the same update: nothing to do
    save_checkpoint(learner(), tmp_path, "r001")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r000-u0000003", "r000-u0000004", "r001-u0000000"]
    newest = newest_checkpoint(tmp_path, "r000")
    assert newest is not None
    other = learner()
    load_checkpoint(other, newest)
    assert other.updates == 4
    first, second = engine.weights(), other.weights()
    assert first is not None and second is not None
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_that_does_not_fit_is_an_error_that_says_so_and_the_last_one_stays(tmp_path: Path) -> None:
    engine = learner()
    learn(engine)
    save_checkpoint(engine, tmp_path, "r000")
    learn(engine)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written .*free space on the disk of run.dir.*--resume"):
            save_checkpoint(engine, tmp_path, "r000")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["r000-u0000001"]
    save_checkpoint(engine, tmp_path, "r000")
    newest = newest_checkpoint(tmp_path, "r000")
    assert newest is not None and newest.name == "r000-u0000002"
