"""Models that ablations need and the project does not ship: made here, from the shipped ones, with fixed seeds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from itercomp_rl.config.load import load_config
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.whole import appearing
from itercomp_rl.pretraining.pretrain import Pretraining, Recipe, train_unet
from itercomp_rl.shapes.models import make_tokenizer, save_pipeline

QUICKSTART = load_config("quickstart")


def make_random_trunk(folder: Path) -> None:
    """The quickstart's reward trunk with the numbers in every tensor shuffled: of its scale, without its knowledge."""
    generator = torch.Generator().manual_seed(0)
    with appearing(folder) as partial:
        shutil.copytree(checkpoint_path(QUICKSTART.reward.trunk), partial)
        for file in sorted(partial.rglob("*.safetensors")):
            shuffled = {
                name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
                for name, tensor in sorted(load_file(file).items())
            }
            save_file(shuffled, file, metadata={"format": "pt"})


def make_little_data_base(folder: Path, *, num_pictures: int = 500, num_steps: int = 1500) -> None:
    """A policy from nothing on few pictures with right captions: weak because it saw little, not because it was misled.

    The text encoder and the VAE are the shipped ones. About five minutes on two cores.
    """
    task = Pretraining(out=folder.with_suffix(".work"), recipe=Recipe(num_latents=num_pictures, unet_steps=num_steps))
    shipped = Path(checkpoint_path(QUICKSTART.policy.model))
    if not (task.work / "vae").exists():
        CLIPTextModel.from_pretrained(shipped / "text_encoder", dtype=torch.float32).save_pretrained(task.work / "text")
        AutoencoderKL.from_pretrained(shipped / "vae", torch_dtype=torch.float32).save_pretrained(task.work / "vae")
    unet = train_unet(task, "clean")
    with appearing(folder) as partial:
        save_pipeline(partial, make_tokenizer(), task.text_encoder, task.vae, unet)


MODELS: dict[str, Callable[[Path], None]] = {"random-trunk": make_random_trunk, "little-data": make_little_data_base}
