"""Trains every tiny model the project ships, from nothing, in one command: text, VAE, UNets, reward trunk.

Each stage leaves a finished folder and is skipped when that folder is there, so a killed run goes on where it was.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from itercomp_rl.files.whole import appearing
from itercomp_rl.pretraining.conv_trunk import train_conv_trunk
from itercomp_rl.pretraining.examples import NUM_WAYS, Captions, LatentStream, Wrong, load_latents, pictures
from itercomp_rl.pretraining.lessons import Lessons, composition, objects_alone
from itercomp_rl.pretraining.training import train
from itercomp_rl.pretraining.trunk import CaptionTable, Source, train_trunk
from itercomp_rl.reward.checkpoint import save_reward
from itercomp_rl.shapes.models import (
    TEXT_WIDTH,
    make_scheduler,
    make_text_encoder,
    make_unet,
    make_vae,
    save_pipeline,
)
from itercomp_rl.shapes.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    World,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakening:
    """How a gallery member is made from another: more steps on captions of which some are wrong.

    Long enough that the model learns to settle on one reading of an unreliable caption; cut short, it paints the
    average.
    """

    start: str
    num_steps: int
    lr: float
    wrong: Wrong


# Strengths of the gallery: each specialist keeps one aspect clean. The base is weak in all three.
MEMBERS = {
    "base": Weakening(
        start="clean", num_steps=1000, lr=8e-4, wrong=Wrong(attribute=0.35, spatial=0.3, non_spatial=0.3)
    ),
    "generalist": Weakening(
        start="base", num_steps=160, lr=4e-4, wrong=Wrong(attribute=0.2, spatial=0.2, non_spatial=0.2)
    ),
    "attribute": Weakening(
        start="clean", num_steps=500, lr=8e-4, wrong=Wrong(attribute=0.0, spatial=0.35, non_spatial=0.35)
    ),
    "spatial": Weakening(
        start="base", num_steps=160, lr=4e-4, wrong=Wrong(attribute=0.35, spatial=0.0, non_spatial=0.35)
    ),
    "relation": Weakening(
        start="base", num_steps=160, lr=4e-4, wrong=Wrong(attribute=0.35, spatial=0.35, non_spatial=0.0)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Lengths of the stages; by the defaults the shipped models were made, on two CPU cores.

    All but conv_trunk, which was pretrained on predictions of a clean UNet of 1,200 steps.
    """

    seed: int = 0
    text_steps: int = 500
    vae_steps: int = 1500
    num_latents: int = 40_000
    unet_steps: int = 3500
    weaken: float = 1.0  # factor on the steps of every gallery member
    num_pictures: int = 30_000
    trunk_steps: int = 1500
    num_conv_pictures: int = 20_000
    conv_trunk_steps: int = 1200
    num_generic_pictures: int = 10_000
    generic_trunk_steps: int = 1200

    def scaled(self, factor: float) -> "Recipe":
        """Every stage shorter or longer by a factor; the seed stays."""
        lengths = {
            f.name: max(2, round(getattr(self, f.name) * factor))
            for f in fields(self)
            if isinstance(getattr(self, f.name), int) and f.name != "seed"
        }
        lengths["num_latents"] = max(500, lengths["num_latents"] // 500 * 500)
        return replace(self, weaken=self.weaken * factor, **lengths)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Where the stages read and write: `out` gets the finished folders, `out`/work the intermediate ones."""

    out: Path
    recipe: Recipe

    @property
    def work(self) -> Path:
        """Intermediate results, not shipped."""
        return self.out / "work"

    @cached_property
    def captions(self) -> Captions:
        """Every training caption."""
        return Captions(World())

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        """The frozen text encoder, trained on first use."""
        return train_text(self)

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The frozen autoencoder, trained on first use."""
        return train_vae(self)

    @cached_property
    def stream(self) -> LatentStream:
        """What the UNets learn from, made on first use."""
        latents = load_latents(
            self.work / "latents.safetensors", self.captions, self.vae, self.recipe.num_latents, self.recipe.seed
        )
        return LatentStream(self.captions, self.text_encoder, *latents)

    def source(self, name: str, *, share: float, max_t: int) -> Source:
        """A UNet, trained on first use, as a source of pictures for a trunk."""
        unet = train_unet(self, name).eval()
        return Source(vae=self.vae, unet=unet, text_encoder=self.text_encoder, share=share, max_t=max_t)


def _slots(scene: Scene) -> dict[str, Thing]:
    """Who is where: what the text encoder must be able to say of a prompt."""
    ends = {
        "left": ("left", "right"),
        "right": ("right", "left"),
        "above": ("top", "bottom"),
        "below": ("bottom", "top"),
        "inside": ("inner", "outer"),
    }.get(scene.relation, ("one", "other"))
    return {"first": scene.first, "second": scene.second, ends[0]: scene.first, ends[1]: scene.second}


SLOTS = ("first", "second", "left", "right", "top", "bottom", "inner", "outer", "one", "other")


def train_text(task: Pretraining) -> CLIPTextModel:
    """A text encoder whose last state tells the relation and what stands left, right, on top, inside..."""
    encoder = make_text_encoder(task.captions.tokenizer)
    folder = task.work / "text"
    if folder.exists():
        return CLIPTextModel.from_pretrained(folder)
    captions = task.captions
    torch.manual_seed(task.recipe.seed)
    encoder = make_text_encoder(captions.tokenizer)
    colours, shapes = ["none", *COLOURS], ["none", *SHAPES]
    head = nn.Linear(TEXT_WIDTH, len(RELATIONS) + len(SLOTS) * (len(colours) + len(shapes)))
    said = [_slots(scene) for scene in captions.scenes]
    relation = torch.tensor([RELATIONS.index(scene.relation) for scene in captions.scenes])
    colour = torch.tensor([[colours.index(s[k].colour) if k in s else 0 for k in SLOTS] for s in said])
    shape = torch.tensor([[shapes.index(s[k].shape) if k in s else 0 for k in SLOTS] for s in said])

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(captions.scenes), (256,), generator=generator)
        ids = captions.ids[rows, torch.randint(NUM_WAYS, (256,), generator=generator)]
        hidden = encoder(input_ids=ids).pooler_output
        r, c, s = head(hidden).split([len(RELATIONS), len(SLOTS) * len(colours), len(SLOTS) * len(shapes)], dim=1)
        c, s = c.view(256, len(SLOTS), -1), s.view(256, len(SLOTS), -1)
        right = (c.argmax(-1) == colour[rows]).all(1) & (s.argmax(-1) == shape[rows]).all(1)
        loss = F.cross_entropy(r, relation[rows])
        loss = loss + 4 * F.cross_entropy(c.flatten(0, 1), colour[rows].flatten())
        loss = loss + 4 * F.cross_entropy(s.flatten(0, 1), shape[rows].flatten())
        return loss, {"right": right.float().mean().item()}

    both = nn.ModuleList([encoder, head])
    train("text", both, loss_of, num_steps=task.recipe.text_steps, lr=2e-3, folder=task.work, seed=task.recipe.seed)
    with appearing(folder) as partial:
        encoder.save_pretrained(partial)
    return encoder.eval()


def train_vae(task: Pretraining) -> AutoencoderKL:
    """An autoencoder whose latents have about unit variance after `scaling_factor`."""
    folder = task.work / "vae"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder)
    torch.manual_seed(task.recipe.seed)
    vae = make_vae()

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        _, x = pictures(32, task.recipe.seed * 1_000_003 + step)
        posterior = vae.encode(x, return_dict=False)[0]
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        pixels = vae.decode(z, return_dict=False)[0]  # pyright: ignore[reportArgumentType]  # wants FloatTensor: any Tensor
        error = pixels - x
        mse = error.square().mean()
        return error.abs().mean() + 4 * mse + 2e-5 * posterior.kl().mean() / 32, {
            "psnr_db": 10 * np.log10(4 / mse.item())
        }

    train(
        "vae",
        vae,
        loss_of,
        num_steps=task.recipe.vae_steps,
        lr=2e-3,
        folder=task.work,
        ema=0.995,
        seed=task.recipe.seed,
    )
    with torch.no_grad():
        posterior = vae.encode(pictures(512, 12345)[1], return_dict=False)[0]
        z = posterior.sample(torch.Generator().manual_seed(0))
    vae.register_to_config(scaling_factor=round(1 / z.std().item(), 5))
    with appearing(folder) as partial:
        vae.save_pretrained(partial)
    return vae


def train_unet(task: Pretraining, name: str) -> UNet2DConditionModel:
    """The clean model from nothing (`name` "clean"), or a gallery member from the model it starts from."""
    folder = task.work / f"unet-{name}"
    if folder.exists():
        return UNet2DConditionModel.from_pretrained(folder)
    stream = task.stream  # before the seed is set: its stages draw too
    torch.manual_seed(task.recipe.seed)
    member = MEMBERS.get(name)
    unet = train_unet(task, member.start) if member else make_unet()
    scheduler: DDIMScheduler = make_scheduler()

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x0, states, _ = stream.batch(64, member.wrong if member else None, generator)
        # Binding is decided at high noise: 70 % of the examples come from there.
        low = torch.rand(len(x0), generator=generator) < 0.3
        t = torch.randint(500, 1000, (len(x0),), generator=generator)
        t = torch.where(low, t - 500, t)
        noise = torch.randn(x0.shape, generator=generator)
        noised = scheduler.add_noise(x0, noise, t)  # type: ignore[arg-type]
        target = scheduler.get_velocity(x0, noise, t)  # type: ignore[arg-type]
        loss = F.mse_loss(unet(noised, t, states).sample, target)
        return loss, {}

    steps, lr = (
        (max(1, round(member.num_steps * task.recipe.weaken)), member.lr)
        if member
        else (task.recipe.unet_steps, 1.5e-3)
    )
    train(
        f"unet-{name}",
        unet,
        loss_of,
        num_steps=steps,
        lr=lr,
        folder=task.work,
        ema=0.98 if member else 0.999,
        seed=task.recipe.seed,
    )
    with appearing(folder) as partial:
        unet.save_pretrained(partial)
    return unet


def pretrain(out: Path, recipe: Recipe) -> None:
    """Every stage in order; finished stages are skipped."""
    task = Pretraining(out=out, recipe=recipe)
    for name in MEMBERS:
        folder = out / name
        if not folder.exists():
            unet = train_unet(task, name)
            with appearing(folder) as partial:
                save_pipeline(partial, task.captions.tokenizer, task.text_encoder, task.vae, unet)
            log.info("saved %s", folder)
    make_trunk(task)
    make_conv_trunk(task)
    make_generic_trunk(task)


def make_trunk(task: Pretraining) -> None:
    """The BLIP trunk, from pictures that the base and the clean model predict in mid-flight."""
    folder = task.out / "trunk"
    if folder.exists():
        return
    sources = [task.source(name, share=0.5, max_t=800) for name in ("base", "clean")]
    recipe = task.recipe
    model, accuracies = train_trunk(
        task.work,
        task.captions.tokenizer,
        sources,
        num_pictures=recipe.num_pictures,
        num_steps=recipe.trunk_steps,
        seed=recipe.seed,
    )
    log.info("trunk: held-out accuracy %s", {key: round(value, 3) for key, value in accuracies.items()})
    save_reward(model.half(), folder)


def make_conv_trunk(task: Pretraining) -> None:
    """The convolutional trunk. The base predicts pictures only where the noise has left what they show.

    From higher noise it paints the wrong binding under the right caption a third of the time: labels that are wrong.
    """
    sources = (("clean", 0.75, 850), ("base", 0.25, 400))
    recipe = task.recipe
    _make_conv(task, "conv_trunk", composition, sources, recipe.num_conv_pictures, recipe.conv_trunk_steps)


def make_generic_trunk(task: Pretraining) -> None:
    """A trunk like the generic scorers of the real world: it knows objects and clean pictures, and no composition.

    What it was never told it must learn from the gallery's pairs.
    """
    sources = (("attribute", 0.6, 700), ("base", 0.4, 500))
    recipe = task.recipe
    _make_conv(task, "generic_trunk", objects_alone, sources, recipe.num_generic_pictures, recipe.generic_trunk_steps)


def _make_conv(
    task: Pretraining,
    name: str,
    lessons: Callable[[CaptionTable, np.random.Generator], Lessons],
    sources: Sequence[tuple[str, float, int]],
    num_pictures: int,
    num_steps: int,
) -> None:
    """A convolutional trunk in `out`/`name`, unless it is there; sources: (UNet, share of the pictures, highest t)."""
    folder = task.out / name
    if folder.exists():
        return
    model, accuracies = train_conv_trunk(
        task.work,
        task.captions.tokenizer,
        task.text_encoder,
        [task.source(unet, share=share, max_t=max_t) for unet, share, max_t in sources],
        num_pictures=num_pictures,
        num_steps=num_steps,
        seed=task.recipe.seed,
        lessons=lessons,
        name=name.replace("_", "-"),
    )
    log.info("%s: held-out accuracy %s", name, {key: round(value, 3) for key, value in accuracies.items()})
    save_reward(model.half(), folder)
