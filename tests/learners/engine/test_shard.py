"""Checkpoints go on exactly or not at all; the learning rate schedule."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itercomp_rl.errors import CheckpointError
from learners.engine.engine import Engine
from learners.engine.shard import average_decay, learning_rate
from learners.engine.spec import EngineSpec
from tests.parts.scale import scale_engine, update, weight


def saved_engine(folder: Path, **settings: Any) -> Engine:
    engine = scale_engine([1.0, 2.0], ema_decay=0.5, **settings)
    for _ in range(3):
        update(engine, [1.0, -2.0])
    engine.save(folder)
    return engine


def test_a_loaded_engine_goes_on_exactly(tmp_path: Path) -> None:
    schedule = {"lr_schedule": "cosine", "total_steps": 8}
    engine = saved_engine(tmp_path / "c", **schedule)
    resumed = scale_engine([5.0, 5.0], ema_decay=0.5, **schedule)
    resumed.load(tmp_path / "c")
    assert update(engine, [0.5, 0.5]) == update(resumed, [0.5, 0.5])
    assert (weight(engine), weight(engine, True)) == (weight(resumed), weight(resumed, True))
    assert resumed.updates == 4


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    engine = saved_engine(tmp_path / "c")
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        engine.save(tmp_path / "c")


def test_a_checkpoint_is_on_the_disk_before_its_mark_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flushed, flush = [], os.fsync

    def noting(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        name = re.sub(rf"\.{os.getpid()}-\d+\.new$", "", name)
        flushed.append((name, (tmp_path / "c" / "engine.json").exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    saved_engine(tmp_path / "c")
    part = ".part-00000-of-00001.safetensors"  # a file under its temporary name
    assert flushed[:3] == [(part, False), ("c", False), (".engine.json", False)]
    assert flushed[3:] == [("c", True), (tmp_path.name, True)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: (c / "engine.json").unlink(), "no complete checkpoint"),
        (lambda c: next(c.glob("part-*")).unlink(), "is missing"),
        (lambda c: os.truncate(next(c.glob("part-*")), 200), "damaged.*resume again"),
        (lambda c: os.truncate(c / "engine.json", 0), "engine.json cannot be read.*delete .*/c and resume again"),
        (lambda c: (c / "engine.json").write_text("[]"), "engine.json cannot be read"),
        (
            lambda c: (c / "engine.json").write_text(
                (c / "engine.json").read_text().replace('"updates": 3', '"updates": 4')
            ),
            "is of update 3, its engine.json of 4",
        ),
    ],
)
def test_an_incomplete_or_mixed_checkpoint_is_refused(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    saved_engine(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message):
        scale_engine([1.0, 2.0], ema_decay=0.5).load(tmp_path / "c")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: scale_engine([1.0, 2.0]), "has_ema"),
        (lambda: scale_engine([1.0, 2.0], ema_decay=0.5, dtype="bf16"), "dtype"),
        (lambda: scale_engine([1.0, 2.0, 3.0], ema_decay=0.5), "parameters"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(other: Callable[[], Engine], message: str, tmp_path: Path) -> None:
    saved_engine(tmp_path / "c")
    with pytest.raises(CheckpointError, match=message):
        other().load(tmp_path / "c")


@given(warmup=st.integers(1, 50), more=st.integers(1, 100), schedule=st.sampled_from(["constant", "cosine"]))
def test_a_rate_rises_in_equal_parts_and_then_never_again(warmup: int, more: int, schedule: Any) -> None:
    total = warmup + more
    spec = EngineSpec(kind="plain", lr=0.5, lr_warmup=warmup, lr_schedule=schedule, total_steps=total)
    rates = [learning_rate(spec, step) for step in range(total + 1)]
    assert rates[:warmup] == pytest.approx([0.5 * (step + 1) / warmup for step in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == 0.5
    assert rates[-1] == pytest.approx(0.5 if schedule == "constant" else 0.0, abs=1e-12)


@given(steps=st.integers(1, 300), decay=st.floats(0.0, 0.999))
def test_an_average_forgets_its_first_weights_early(steps: int, decay: float) -> None:
    spec = EngineSpec(kind="plain", lr=0.5, ema_decay=decay)
    decays = [average_decay(spec, step) for step in range(1, steps + 1)]
    assert decays == sorted(decays)
    assert max(decays) <= decay
    assert average_decay(spec, 10**6) == decay
    assert math.prod(decays) <= math.prod([decay] * steps), "no more of the first weights is left than without warm-up"


def test_a_new_count_goes_on_with_weights_moments_and_average_through_a_checkpoint(tmp_path: Path) -> None:
    schedule = {"lr_schedule": "cosine", "total_steps": 8, "lr_warmup": 4}
    through, apart = (scale_engine([1.0, 2.0], ema_decay=0.5, **schedule) for _ in range(2))
    for gradients in ([1.0, -2.0], [0.5, 3.0], [2.0, 1.0]):
        assert update(through, gradients) == update(apart, gradients)
    apart.save(tmp_path / "end")
    apart = scale_engine([7.0, 7.0], ema_decay=0.5, **schedule)
    apart.load(tmp_path / "end")
    apart.restart_count()
    assert apart.updates == 0
    assert update(through, [1.0, 1.0]) == update(apart, [1.0, 1.0]), "the schedule goes on too"
    apart.save(tmp_path / "later")
    again = scale_engine([5.0, 5.0], ema_decay=0.5, **schedule)
    again.load(tmp_path / "later")
    assert again.updates == 1
    assert update(through, [-1.0, 2.0]) == update(again, [-1.0, 2.0])
    assert (weight(through), weight(through, True)) == (weight(again), weight(again, True))


@given(total=st.integers(1, 500), lr=st.floats(1e-6, 1.0))
def test_a_cosine_schedule_falls_from_the_full_rate_to_nothing(total: int, lr: float) -> None:
    spec = EngineSpec(kind="plain", lr=lr, lr_schedule="cosine", total_steps=total)
    rates = [learning_rate(spec, u) for u in range(total + 2)]
    assert rates[0] == lr
    assert rates == sorted(rates, reverse=True)
    assert rates[-2:] == pytest.approx([0.0, 0.0], abs=1e-12)
