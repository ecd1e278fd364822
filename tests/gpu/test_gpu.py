"""What only a GPU can show: `make test-gpu` on a machine with one."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from itercomp_rl.diffusion.attention_kernel import check_attention, set_attention
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.encoded import EncodedPrompts, load_with_encoded_prompts
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.refl import Feedback, Rolled, feedback_step
from itercomp_rl.errors import ConfigError
from learners.engine.open import open_engine
from learners.engine.rendezvous import join_group
from learners.engine.spec import EngineSpec, Group
from learners.writers import GroupWriters
from tests.parts.checkpoints import make_flux, make_sd, make_sd3, make_sdxl
from tests.parts.engine_rank import SETTINGS, Net, train
from tests.parts.family_runs import check_run, run_family
from tests.parts.tiny_rewards import images, texts, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("default"),  # deepspeed's, which differ with the torch that a GPU machine has
]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FAMILIES = {"sd": make_sd, "sdxl": make_sdxl, "sd3": make_sd3, "flux": make_flux}
PROMPTS = ["a red cup", "a blue box on the left of a cat"]


@pytest.fixture(autouse=True)
def _full_fp32() -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = False  # of convolutions; products of matrices are whole by default
    yield
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_engines_on_a_gpu_train_as_the_plain_one_on_a_cpu(stage: int | None, dtype: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = SETTINGS | {"dtype": dtype}
    reference = open_engine(Net(seed=0), EngineSpec(kind="plain", **settings), None, CPU)
    settings |= {"kind": "plain"} if stage is None else {"kind": "deepspeed", "zero_stage": stage}
    spec = EngineSpec(**settings)
    engine = open_engine(Net(seed=0), spec, None, GPU)
    rtol = 1e-5 if dtype == "fp32" else 0.05
    assert train(engine, range(3)) == pytest.approx(train(reference, range(3)), rel=rtol)
    for ema in (False, True):
        torch.testing.assert_close(engine.weights(ema), reference.weights(ema), rtol=rtol, atol=rtol / 10)
    engine.save(tmp_path)
    second = open_engine(Net(seed=0), spec, None, GPU)
    second.load(tmp_path)
    for each in (engine, second):
        train(each, range(3, 4))
    torch.testing.assert_close(second.weights(), engine.weights(), rtol=0, atol=0)


def test_ranks_tell_each_other_json_over_nccl() -> None:
    group = Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend="nccl")
    join_group(group)
    assert GroupWriters(group, GPU).exchange({"layer.é": [1, None]}) == [{"layer.é": [1, None]}]


def feedback_gradient(folder: Path, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents after two steps without gradient, and the gradient of a loss on the image that the third predicts."""
    encoded = EncodedPrompts()
    policy = load_with_encoded_prompts(folder, PROMPTS, encoded, dtype="fp32", device=device, resolution_px=16)
    policy.trainable.requires_grad_(True)
    cond, schedule = encoded.of(PROMPTS, device), policy.schedule(4)
    generators = image_generators([1, 2])
    latents = policy.start_latents(generators)
    latents = policy.denoise_to(latents, cond, schedule, ([0, 0], [2, 2]), generators)
    rolled = Rolled(latents=latents, cond=cond, schedule=schedule, mid=[2, 2])
    feedback = Feedback(weights={"brightness": 1.0}, scale=1.0)
    loss, _ = feedback_step(policy, lambda x: {"brightness": x.mean((1, 2, 3))}, rolled, feedback)
    loss.backward()
    found = {name: p.grad.cpu() for name, p in policy.trainable.named_parameters() if p.grad is not None}
    return latents.cpu(), found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rollout_and_its_gradient_are_the_same_on_both_devices(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    (latents, gradient), (latents_cpu, gradient_cpu) = (feedback_gradient(folder, device) for device in (GPU, CPU))
    torch.testing.assert_close(latents, latents_cpu, rtol=1e-3, atol=1e-4)
    assert gradient.keys() == gradient_cpu.keys()
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient_cpu.values()))
    off = math.sqrt(sum(float((gradient[name] - g).square().sum()) for name, g in gradient_cpu.items()))
    assert norm > 0
    assert off <= 1e-3 * norm


@pytest.mark.parametrize("make", FAMILIES.values())
def test_flash_attention_draws_the_image_that_sdpa_draws(make: Callable[[Path], Path], tmp_path: Path) -> None:
    policy = load_policy(make(tmp_path / "model"), dtype="bf16", resolution_px=16).to(GPU)
    before = policy.draw(["a red cup"], [1], 4)
    check_attention("policy.attention", "flash", policy.dtype, GPU)
    set_attention(policy.trainable, "flash")
    after = policy.draw(["a red cup"], [1], 4)
    assert np.abs(before.astype(int) - after.astype(int)).mean() <= 4  # of 255: bf16 over four steps


def test_flash_attention_is_refused_in_fp32() -> None:
    with pytest.raises(ConfigError, match="these weights are float32"):
        check_attention("policy.attention", "flash", torch.float32, GPU)


def test_rewards_and_their_gradient_are_the_same_on_both_devices() -> None:
    found = []
    for device in (CPU, GPU):
        image = images().to(device).requires_grad_(True)
        score = tiny_model().to(device).score(image, *(text.to(device) for text in texts()))
        (gradient,) = torch.autograd.grad(score.sum(), image)
        found.append((score.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("mode", "engine", "more"),
    [
        ("lora", "plain", ["policy.attention=flash", "policy.compile=true"]),
        ("full", "zero3", ["gallery.dtype=bf16"]),
    ],
)
def test_the_whole_loop_runs_on_a_gpu_that_its_actors_share(
    mode: str, engine: str, more: list[str], tmp_path: Path
) -> None:
    roles = ("samplers", "judges", "rollers", "reward_learners", "policy_learners")
    shares = [f"actors.{role}.gpus=0.3" for role in roles]
    alone = ["actors.policy_learners.count=1", "policy.engine.dtype=bf16", "reward.engine.dtype=bf16"]
    check_run(run_family(tmp_path, "sdxl", mode, engine, [*shares, *alone, *more]), mode)
