"""Seconds per gradient update of feedback learning: a bare PyTorch loop, against this project's roller and learner.

python benchmarks/refl.py --json refl.json
Both run in one process, in turn, on one SDXL whose UNet dominates: 40 stochastic steps, one gradient point, two
micro-batches of four images. Ours reads its weights from the store and publishes them to it every update, as in a run;
the bare loop keeps them where they are.
Then, ours alone, on images of half the side: the same with 1, 2 and 4 gradient points per rollout, at steps drawn
from 30..39.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from measures import measure, write
from one_process import ASPECTS, feedback_updates, in_turn
from random_models import MARKS, sdxl_scheduler, word_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.reward.published import load_ensemble
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store

CPU = torch.device("cpu")
BATCH, ROLLOUT, STEPS, MID = 8, 4, 40, 35


def main() -> None:
    """Time both ways in turn, then the numbers of points, and write the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=5, help="timed ones of each kind")
    parser.add_argument("--side", type=int, default=32, help="of the latents; the UNet dominates from 16 on")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_sdxl(root / "sdxl", options.side)
        make_sdxl(root / "half", options.side // 2)
        store = open_store((root / "store").as_uri(), create=True, durable=False)
        trunk = load_reward(Path(checkpoint_path(TRUNK)))
        for aspect in ASPECTS:
            weights.publish(store, f"reward-{aspect}", 0, trunk.state_dict(), {})

        def ours(name: str, *overrides: str) -> Callable[[], None]:
            return feedback_updates(settings(root, *overrides), store, root / name, CPU)

        fixed = (f"policy.mid_low={MID}", f"policy.mid_high={MID}")
        found = in_turn({"bare": bare(root, store), "ours": ours("ours", *fixed)}, options.updates)
        ratio = statistics.median(b / a for a, b in zip(found["bare"], found["ours"], strict=True))
        measures = [
            measure("refl/ours over a bare loop", ratio, "ratio", aim=1.03),
            measure("refl/bare loop", statistics.median(found["bare"]), "s per update"),
            measure("refl/ours", statistics.median(found["ours"]), "s per update"),
        ]
        half = f"policy.model={root}/half"
        points = {str(n): ours(f"points-{n}", half, f"policy.points_per_rollout={n}") for n in (1, 2, 4)}
        found = in_turn(points, options.updates)
        for n in (2, 4):
            share = statistics.median(b / (n * a) for a, b in zip(found["1"], found[str(n)], strict=True))
            aim = 0.4 if n == 4 else None
            name = f"refl/compute per gradient point at {n} points per rollout"
            measures.append(measure(name, share, "of 1", aim=aim))
    write(options.json, measures)


TRUNK = "embedded:trunk"  # a BLIP, as the real reward models are
PROMPTS = [f"prompt number {i}" for i in range(64)]


def settings(root: Path, *overrides: str) -> Config:
    """The run both ways are of; the paper's steps, one image batch per update."""
    (root / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return load_config(
        "tiny",
        [
            "actors.layout=separate",  # the roller has a network of its own, refreshed through the store
            "prompts.source=files",
            f"prompts.train_file={root}/prompts.txt",
            f"prompts.test_file={root}/prompts.txt",
            "prompts.policy=64",
            "judge.first_round=reward",
            "evaluation.judge=reward",
            "evaluation.allow_self_grading=true",
            f"policy.model={root}/sdxl",
            f"policy.num_steps={STEPS}",
            "policy.scheduler=ddpm",
            "policy.mid_low=30",
            "policy.mid_high=39",
            f"policy.batch={BATCH}",
            f"policy.rollout_batch={ROLLOUT}",
            "policy.updates=1000000",
            "policy.checkpoint_every=1000000",
            f"reward.trunk={TRUNK}",
            "policy.pretraining_weight=0",
            "policy.shift=0",
            "policy.noise=0",
            "policy.engine.kind=plain",
            "policy.engine.zero_stage=0",
            "policy.engine.lr=1e-5",
            "actors.policy_learners.count=1",
            *overrides,
        ],
    )


def bare(root: Path, store: Store) -> Callable[[], None]:
    """One update with just the necessary calls of torch and diffusers."""
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(root / "sdxl")
    unet, vae = pipeline.unet.train(), pipeline.vae.requires_grad_(False)
    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    rewards = load_ensemble(store, TRUNK, dict.fromkeys(ASPECTS, 0), CPU)
    adam = torch.optim.AdamW(unet.parameters(), lr=1e-5, weight_decay=0.01)
    average = copy.deepcopy(unet).requires_grad_(False)
    side = unet.config.sample_size
    ids = torch.tensor([[2.0 * side, 2.0 * side, 0, 0, 2.0 * side, 2.0 * side]]).repeat(ROLLOUT, 1)
    with torch.no_grad():  # before the clock, as ours
        told, _, pooled_all, _ = pipeline.encode_prompt(PROMPTS, None, CPU, 1, False)
    number = 0

    def predict(latents: torch.Tensor, t: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        told = {"text_embeds": text[1], "time_ids": ids}
        return unet(latents, t, encoder_hidden_states=text[0], added_cond_kwargs=told, return_dict=False)[0]

    def gradient() -> None:
        nonlocal number
        rows = [(number * ROLLOUT + i) % len(PROMPTS) for i in range(ROLLOUT)]
        prompts, tokens, pooled = [PROMPTS[row] for row in rows], told[rows], pooled_all[rows]
        number += 1
        with torch.no_grad():
            latents = torch.randn(ROLLOUT, 4, side, side)
            for t in scheduler.timesteps[:MID]:
                latents = scheduler.step(predict(latents, t, (tokens, pooled)), t, latents, return_dict=False)[0]
        t = scheduler.timesteps[MID]
        output = predict(latents, t, (tokens, pooled))
        abar = scheduler.alphas_cumprod[t]
        x0 = (latents - (1 - abar) ** 0.5 * output) / abar**0.5
        image = (vae.decode(x0 / vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        scores = rewards.score(image, rewards.tokenize(prompts))
        loss = torch.stack([(2 - score).relu() for score in scores.values()]).sum(0).mean()
        (loss * ROLLOUT / BATCH).backward()

    def update() -> None:
        for _ in range(BATCH // ROLLOUT):
            gradient()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            for kept, weight in zip(average.parameters(), unet.parameters(), strict=True):
                kept.lerp_(weight, 0.03)

    return update


def make_sdxl(folder: Path, side: int) -> None:
    """An SDXL of 10 million weights in the UNet, at latents of side x side: its arithmetic dwarfs all around it."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(12)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=12,
        **MARKS,
    )
    pipeline_class: Any = StableDiffusionXLPipeline  # Any: annotations narrower than what they take
    unet_class: Any = UNet2DConditionModel
    vae_class: Any = AutoencoderKL
    pipeline_class(
        vae=vae_class(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=2 * side,
        ),
        text_encoder=CLIPTextModel(text).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet_class(
            sample_size=side,
            block_out_channels=(64, 128, 128),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=64,
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
            norm_num_groups=16,
        ),
        scheduler=sdxl_scheduler(),
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
