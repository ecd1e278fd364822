"""8-bit Adam: refused with the way out where bitsandbytes is absent; where it is there, it learns and resumes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import CheckpointError, ConfigError
from learners.engine.engine import Engine
from learners.engine.open import open_engine
from learners.engine.spec import EngineSpec

IS_THERE = importlib.util.find_spec("bitsandbytes") is not None
CPU = torch.device("cpu")


def engine(optimizer: str = "adamw_8bit") -> Engine:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 1))
    spec = EngineSpec(kind="plain", lr=1e-2, optimizer=optimizer, ema_decay=0.5)  # type: ignore[arg-type]
    return open_engine(module, spec, None, CPU)


def train(found: Engine, updates: range) -> float:
    loss = torch.zeros(())
    for number in updates:
        x = torch.randn(16, 128, generator=torch.Generator().manual_seed(number))
        loss = (found.module(x).squeeze(1) - x.sum(1) / 8).square().mean()
        found.backward(loss)
        found.step()
    return loss.item()


@pytest.mark.skipif(IS_THERE, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_setting_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"adamw_8bit.*bitsandbytes is not installed.*itercomp-rl\[gpu\].*adamw"):
        engine()


def test_under_deepspeed_it_is_refused_in_config_and_engine() -> None:
    with pytest.raises(ConfigError, match=r"policy\.engine\.optimizer.*needs policy\.engine\.kind plain"):
        load_config("quickstart", ["policy.engine.optimizer=adamw_8bit"])
    with pytest.raises(ConfigError, match="needs engine.kind plain"):
        EngineSpec(kind="deepspeed", lr=1e-3, optimizer="adamw_8bit")


@pytest.mark.skipif(not IS_THERE, reason="bitsandbytes is not installed")
def test_eight_bits_learn_as_well_and_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    first, full = engine(), engine("adamw")
    before = train(engine("adamw"), range(1))
    assert train(first, range(40)) < 0.5 * before
    train(full, range(40))
    first.save(tmp_path / "eight")
    second = engine()
    second.load(tmp_path / "eight")
    for found in (first, second):
        train(found, range(40, 45))
    a, b = first.weights(), second.weights()
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(CheckpointError):
        full.load(tmp_path / "eight")
    full.save(tmp_path / "full")
    with pytest.raises(CheckpointError, match="optimizer"):
        second.load(tmp_path / "full")
