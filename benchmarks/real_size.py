"""Feedback learning at a real model's size on one GPU: seconds per update, and peak memory against the estimate.

python benchmarks/real_size.py --json real_size.json [--folder DIR] [--updates 3]
The checkpoints are SDXL base and ImageReward (BLIP-large) in every size, with random weights: time and memory do not
depend on what the weights are. They are made in DIR and stay there; with DIR/sdxl and DIR/reward in place, of whatever
size, those are used. Settings are those of configs/sdxl_lora_1gpu.yaml, but that there are four images to an update and
no pre-training loss, and for what a variant names.
"""

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from measures import measure, write
from one_process import ASPECTS, feedback_updates
from random_models import MARKS, sdxl_scheduler, word_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.forecast.memory import GIB
from itercomp_rl.forecast.model_sizes import KNOWN
from itercomp_rl.forecast.role_memory import need
from itercomp_rl.reward.checkpoint import load_reward, save_reward
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
VARIANTS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "lora, 1 image at once": ("policy.rollout_batch=1",),
    "lora, 1 point": ("policy.points_per_rollout=1",),
    "lora, 4 images at once": ("policy.rollout_batch=4",),
    "lora, flash attention": ("policy.attention=flash",),
    "lora, compiled rollouts": ("policy.compile=true",),
    "lora, no checkpointing": ("policy.gradient_checkpointing=false",),
    "all weights": ("policy.lora.rank=0",),
    "all weights, zero 1": ("policy.lora.rank=0", "policy.engine.kind=deepspeed", "policy.engine.zero_stage=1"),
}


def main() -> None:
    """Each variant in turn; the first update warms up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--folder", type=Path, help="where the checkpoints are made or found; a temporary one if absent"
    )
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="instead of all; may be given again")
    parser.add_argument("overrides", nargs="*", help="of the config, as key=value")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        make_checkpoints(folder, device)
        seconds = {}
        for number, variant in enumerate(options.variant or VARIANTS):
            config = settings(folder, *VARIANTS[variant], *options.overrides)
            place = Path(temporary) / str(number)
            store = reward_store(folder, place / "store")
            peak, per_update = run(config, store, place / "learner", device, options.updates)
            shutil.rmtree(place)  # every update published all that it learned
            points = config.policy.batch * config.policy.points_per_rollout
            seconds[variant] = per_update / points
            measures.append(measure(f"real size/{variant}", per_update, f"s per update of {points} gradient points"))
            if peak:
                estimate = estimated(config)
                measures.append(measure(f"real size/{variant}: peak memory", peak / GIB, "GiB"))
                measures.append(measure(f"real size/{variant}: estimate", estimate / GIB, "GiB"))
                measures.append(measure(f"real size/{variant}: peak over estimate", peak / estimate, "ratio", aim=1.0))
        for variant, took in seconds.items():
            if variant != "lora" and "lora" in seconds:
                measures.append(measure(f"real size/{variant} over lora, per point", took / seconds["lora"], "ratio"))
    write(options.json, measures)


def settings(folder: Path, *overrides: str) -> Config:
    """One GPU, four rollouts an update."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(f"prompt number {i}" for i in range(64)), encoding="utf-8")
    return load_config(
        "sdxl_lora_1gpu",
        [
            f"policy.model={folder}/sdxl",
            f"reward.trunk={folder}/reward",
            "prompts.source=files",
            f"prompts.train_file={prompts}",
            f"prompts.test_file={prompts}",
            "prompts.gallery=8",
            "prompts.policy=64",
            "gallery.members.sd15.model=policy",
            "policy.batch=4",
            "policy.updates=1000000",
            "policy.checkpoint_every=1000000",
            "policy.pretraining_weight=0",
            *overrides,
        ],
    )


def run(config: Config, store: Store, folder: Path, device: torch.device, updates: int) -> tuple[int, float]:
    """The most bytes that torch took from the GPU (0 without one), and the median seconds of an update."""
    found = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    update = feedback_updates(config, store, folder, device)
    for number in range(updates + 1):
        began = time.perf_counter()
        update()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            found.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
    del update
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return peak, statistics.median(found)


def estimated(config: Config) -> int:
    """What the check before a run expects of a process that rolls and learns, without CUDA's own context."""
    roles = ("policy_learner-0", "roller-0")
    return sum(need(config, role, on_gpu=True, beside=roles).total for role in roles)


def reward_store(folder: Path, at: Path) -> Store:
    """A store with the trunk as every aspect's reward model."""
    store = open_store(at.as_uri(), create=True, durable=False)
    trunk = load_reward(folder / "reward")
    for aspect in ASPECTS:
        weights.publish(store, f"reward-{aspect}", 0, trunk.state_dict(), {})
    return store


def make_checkpoints(folder: Path, device: torch.device) -> None:
    """SDXL base (bf16) and ImageReward with random weights, where there are none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if not (folder / "sdxl").exists():
        make_sdxl(folder / "partial", device)
        (folder / "partial").rename(folder / "sdxl")
    if not (folder / "reward").exists():
        words = word_tokenizer(35)
        with torch.device(device):
            model = RewardModel(RewardConfig(mlp_init="unit_gain"), words)
        save_reward(model.cpu().eval(), folder / "reward")


def make_sdxl(folder: Path, device: torch.device) -> None:
    """Every part in the size of SDXL base, but for the vocabulary of its tokenizers."""
    tokenizer = word_tokenizer(77)
    first = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **MARKS
    )
    second = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        **MARKS,
    )
    unet_class: Any = UNet2DConditionModel  # Any: annotations narrower than what they take
    vae_class: Any = AutoencoderKL
    pipeline_class: Any = StableDiffusionXLPipeline
    with torch.device(device):
        parts = {
            "vae": vae_class.from_config(dict(KNOWN[SDXL].vae) | {"sample_size": 1024, "scaling_factor": 0.13025}),
            "text_encoder": CLIPTextModel(first).eval(),
            "text_encoder_2": CLIPTextModelWithProjection(second).eval(),
            "unet": unet_class.from_config(dict(KNOWN[SDXL].network)),
        }
    pipeline_class(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=sdxl_scheduler(),
        **{name: part.to(torch.bfloat16) for name, part in parts.items()},
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
