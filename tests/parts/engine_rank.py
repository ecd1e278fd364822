"""One rank of the engine tests, as a process: it takes its orders as JSON and leaves its findings in a folder."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from itercomp_rl.errors import CheckpointError, ConfigError, DivergedError
from learners.engine.engine import Engine
from learners.engine.open import open_engine
from learners.engine.spec import EngineSpec, Group

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {  # Any: settings of all types
    "lr": 1e-2,
    "weight_decay": 0.1,
    "grad_clip": 0.3,  # below every norm that these tests meet, so that clipping is always at work
    "ema_decay": 0.9,
    "lr_schedule": "cosine",
    "total_steps": 10,
}


class Net(nn.Module):
    """A frozen stem, a body whose activations are computed anew in the backward pass, and two heads."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Linear(6, 12).requires_grad_(False)
            self.body = nn.Sequential(nn.Linear(12, 12), nn.GELU())
            self.head = nn.Linear(12, 1)
            self.spare = nn.Linear(12, 1)

    def forward(self, x: Tensor, use_spare: bool = False) -> Tensor:
        hidden: Any = checkpoint(self.body, self.stem(x.to(self.stem.weight.dtype)), use_reentrant=False)
        return self.spare(hidden) if use_spare else self.head(hidden)


def batch(update: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(update))


def train(engine: Engine, updates: range, rank: int = 0, world_size: int = 1, micro: int = 1) -> list[float]:
    """Trains on equal parts of each global batch; odd updates use the other head, and run all forwards first."""
    norms, device = [], next(engine.module.parameters()).device
    for update in updates:
        with torch.no_grad():
            engine.module(batch(update).to(device))  # as the steps of a rollout that no gradient flows through
        parts = batch(update).to(device).chunk(world_size * micro)[rank * micro : (rank + 1) * micro]
        losses = ((engine.module(x, update % 2 == 1).float() - 1).square().mean() / micro for x in parts)
        for loss in list(losses) if update % 2 == 1 else losses:
            engine.backward(loss)
        norms.append(engine.step()["grad_norm"])
    return norms


def be_a_rank(orders: dict[str, Any], rank: int, world_size: int, port: int, out: Path) -> None:
    settings: dict[str, Any] = {"master_addr": "127.0.0.1", "master_port": port, "timeout_s": 300.0, "backend": "gloo"}
    group = Group(rank=rank, world_size=world_size, **settings) if world_size > 1 else None
    facts: dict[str, Any] = {}
    for name, case in orders["cases"].items():
        spec = EngineSpec(**SETTINGS, **case)
        first = open_engine(Net(seed=rank), spec, group, CPU)  # rank 0's weights count
        facts[name] = {"norms": train(first, range(3), rank, world_size, orders["micro"])}
        found = {f"weights/{k}": v for k, v in first.weights(ema=False).items()}
        found |= {f"ema/{k}": v for k, v in first.weights().items()}
        save_file(found, out / f"{name}-{rank}.safetensors")
        first.save(out / name)
        second = open_engine(Net(seed=0), spec, group, CPU)
        train(second, range(1), rank, world_size, orders["micro"])  # so that there is something to forget
        second.load(out / name)
        for engine in (first, second):
            train(engine, range(3, 4), rank, world_size, orders["micro"])
        facts[name]["resumed"] = same(first.weights(), second.weights()) and second.updates == 4
        facts[name]["diverged"] = diverge(second, is_guilty=rank == world_size - 1)
        facts[name]["untouched"] = same(first.weights(False), second.weights(False)) and second.updates == 4
        train(second, range(4, 5), rank, world_size, orders["micro"])
        facts[name]["updates"] = second.updates
        if world_size > 1:
            facts[name]["refined"] = refined(EngineSpec(**SETTINGS, **case | {"dtype": "bf16"}), group)
        for engine in (first, second):
            engine.close()
    if world_size == 1:
        facts["alone"] = be_alone(Path(orders["pair"]), settings)
    (out / f"facts-{rank}.json").write_text(json.dumps(facts))


def refined(spec: EngineSpec, group: Group | None) -> bool:
    """Whether masters and average of a bf16 engine begin at exactly the fp32 values that its weights are rounded from.

    And go on from them: after an update of no rate they are the same, and so are the module's weights.
    """
    values = {name: p.detach().clone() for name, p in Net(seed=0).named_parameters()}
    engine = open_engine(Net(seed=0).bfloat16(), replace(spec, lr=0.0), group, CPU)
    if all(torch.equal(master, values[name]) for name, master in engine.masters().items()):
        return False  # rounded they must be, before
    rounded = engine.weights()
    engine.refine(values.items())
    is_exact = [all(torch.equal(m, values[name]) for name, m in engine.masters(ema).items()) for ema in (True, False)]
    complaint(CheckpointError, lambda: engine.refine((name, value + 1) for name, value in values.items()))
    complaint(CheckpointError, lambda: engine.refine([]))
    engine.backward(engine.module(batch(0)).float().square().mean())
    engine.step()
    is_same = all(torch.equal(m, values[name]) for name, m in engine.masters(False).items())
    stays = same(rounded, engine.weights()) and same(rounded, engine.weights(ema=False))
    engine.close()
    return all(is_exact) and is_same and stays


def be_alone(pair: Path, settings: dict[str, Any]) -> dict[str, str]:
    """What one rank may not do: resume the state of two, or join a second group."""
    engine = open_engine(Net(seed=0), EngineSpec(kind="deepspeed", zero_stage=2, **SETTINGS), None, CPU)
    plain = EngineSpec(kind="plain", **SETTINGS)
    return {
        "resume": complaint(CheckpointError, lambda: engine.load(pair / "zero2")),
        "join": complaint(
            ConfigError, lambda: open_engine(Net(seed=0), plain, Group(rank=0, world_size=1, **settings), CPU)
        ),
    }


def complaint(kind: type[Exception], act: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        act()
    return str(caught.value)


def diverge(engine: Engine, is_guilty: bool) -> str:
    x = batch(0) * (math.nan if is_guilty else 1.0)
    engine.backward(engine.module(x).float().square().mean())
    return complaint(DivergedError, engine.step)


def same(a: dict[str, Tensor] | None, b: dict[str, Tensor] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


if __name__ == "__main__":
    orders, out, *place = sys.argv[1:]
    be_a_rank(json.loads(orders), *(int(number) for number in place), out=Path(out))
