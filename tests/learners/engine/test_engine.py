"""Plain torch and ZeRO 0 to 3 are one engine: same gradients, clipping, average and checkpoints on 1 and 2 ranks."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from itercomp_rl.errors import ConfigError
from learners.engine.open import open_engine
from learners.engine.spec import EngineSpec, Group
from tests.parts.engine_rank import CPU, SETTINGS, Net, train

ROOT = Path(__file__).parents[3]


def run_ranks(world_size: int, out: Path, orders: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs this file as so many processes; returns each one's facts, with all it printed under `said`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.parts.engine_rank", json.dumps(orders), str(out)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), str(port)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    said = [process.communicate(timeout=600)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world_size, "\n".join(said)
    return [json.loads((out / f"facts-{r}.json").read_text()) | {"said": said[r]} for r in range(world_size)]


CASES: dict[str, dict[str, Any]] = {
    "plain": {"kind": "plain"},
    **{f"zero{stage}": {"kind": "deepspeed", "zero_stage": stage} for stage in range(4)},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("pair")
    return out, run_ranks(2, out, {"cases": CASES, "micro": 2})


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, list[dict[str, Any]]]
) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("alone")
    zero = {name: case for name, case in CASES.items() if name != "plain"}
    return out, run_ranks(1, out, {"cases": zero, "micro": 2, "pair": str(pair[0])})


def check_against_plain(name: str, out: Path, facts: list[dict[str, Any]], case: dict[str, Any], tol: float) -> None:
    """The case's weights, averages and norms are those of one plain rank that sees each global batch whole."""
    reference = open_engine(Net(seed=0), EngineSpec(**SETTINGS, **case), None, CPU)
    norms = train(reference, range(3))
    expected = {f"weights/{k}": v for k, v in reference.weights(ema=False).items()}
    expected |= {f"ema/{k}": v for k, v in reference.weights().items()}
    assert min(norms) > SETTINGS["grad_clip"]
    shares = [load_file(out / f"{name}-{rank}.safetensors") for rank in range(len(facts))]
    assert sum(map(len, shares)) == len(expected)  # no weight is of two ranks
    assert all(shares), "a rank has nothing to write"
    torch.testing.assert_close({k: v for share in shares for k, v in share.items()}, expected, rtol=tol, atol=tol / 10)
    for found in facts:
        assert found[name]["norms"] == pytest.approx(norms, rel=tol)
        assert (found[name]["resumed"], found[name]["untouched"]) == (True, True)
        assert "norm of update 4 is" in found[name]["diverged"]
        assert found[name]["updates"] == 5


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_with_two_micro_batches_train_as_one_plain_rank(
    name: str, pair: tuple[Path, list[dict[str, Any]]]
) -> None:
    check_against_plain(name, *pair, {"kind": "plain"}, tol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_masters_of_bf16_weights_begin_at_the_fp32_values_that_were_rounded(
    name: str, pair: tuple[Path, list[dict[str, Any]]]
) -> None:
    assert [facts[name]["refined"] for facts in pair[1]] == [True, True]


@pytest.mark.parametrize("name", [name for name in CASES if name != "plain"])
def test_one_zero_rank_trains_as_one_plain_rank(name: str, alone: tuple[Path, list[dict[str, Any]]]) -> None:
    check_against_plain(name, *alone, {"kind": "plain"}, tol=1e-5)


@pytest.mark.slow
def test_engines_agree_in_bf16_too(tmp_path: Path) -> None:
    cases = {name: case | {"dtype": "bf16"} for name, case in CASES.items()}
    facts = run_ranks(2, tmp_path, {"cases": cases, "micro": 2})
    for name in cases:  # a bf16 number has 8 bits: half a per cent is one unit in its last place
        check_against_plain(name, tmp_path, facts, {"kind": "plain", "dtype": "bf16"}, tol=0.05)


def test_ranks_print_nothing(pair: tuple[Path, list[dict[str, Any]]], alone: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [facts["said"] for facts in pair[1] + alone[1]] == ["", "", ""]


def test_one_rank_cannot_resume_the_zero_state_of_two(alone: tuple[Path, list[dict[str, Any]]]) -> None:
    assert "saved by 2 ranks and this group has 1" in alone[1][0]["alone"]["resume"]


def test_a_process_cannot_join_a_second_group(alone: tuple[Path, list[dict[str, Any]]]) -> None:
    assert "cannot join" in alone[1][0]["alone"]["join"]


def test_one_plain_rank_resumes_the_state_of_two(pair: tuple[Path, list[dict[str, Any]]]) -> None:
    spec = EngineSpec(kind="plain", **SETTINGS)
    whole, resumed = (open_engine(Net(seed=0), spec, None, CPU) for _ in range(2))
    train(whole, range(4))
    resumed.load(pair[0] / "plain")
    train(resumed, range(3, 4))
    torch.testing.assert_close(resumed.weights(), whole.weights(), rtol=1e-5, atol=1e-6)


def test_plain_engines_alone_touch_neither_torch_distributed_nor_deepspeed() -> None:
    program = """
import sys
import torch.distributed as dist
from tests.parts.engine_rank import CPU, SETTINGS, Net, EngineSpec, open_engine, train
engines = [open_engine(Net(seed), EngineSpec(kind="plain", **SETTINGS), None, CPU) for seed in range(3)]
for engine in engines:
    train(engine, range(1))
print("deepspeed" in sys.modules, dist.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "plane"},
        {"dtype": "fp16"},
        {"zero_stage": 2},
        {"kind": "deepspeed", "zero_stage": 4},
        {"lr": math.nan},
        {"lr": -1.0},
        {"ema_decay": 1.0},
        {"betas": (0.9, 1.0)},
        {"lr_schedule": "linear"},
        {"lr_schedule": "cosine"},
    ],
)
def test_an_impossible_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"engine.{list(wrong)[-1]}"):
        EngineSpec(**({"kind": "plain", "lr": 1e-3} | wrong))


def test_a_module_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        open_engine(nn.Linear(2, 2).requires_grad_(False), EngineSpec(kind="plain", lr=1e-3), None, CPU)


def test_nccl_without_a_gpu_is_refused() -> None:
    group = Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=1.0, backend="nccl")
    with pytest.raises(ConfigError, match="nccl"):
        open_engine(nn.Linear(2, 2), EngineSpec(kind="plain", lr=1e-3), group, CPU)
