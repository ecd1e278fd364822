"""The convolutional trunk's pretraining: which caption is the picture's, which of two pictures is the caption's.

The first question is image-text matching against captions that the trunk's lessons (lessons.py) call wrong. The second
sets a clean render against a spoilt one. Spoilt is what a policy paints that climbs a reward which knows only the first
question: parts of another scene, to please two readings of a prompt at once; shapes exaggerated beyond their own;
smears; and whatever else the reward's own gradient asks for, found by following it for a few steps. So a clean picture
stays the best one.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from itercomp_rl.pretraining.lessons import NUM_WRONG, Lessons, composition
from itercomp_rl.pretraining.training import train
from itercomp_rl.pretraining.trunk import NUM_WAYS, CaptionTable, Source, picture_pool
from itercomp_rl.reward.conv import ConvConfig, ConvReward
from itercomp_rl.reward.hardening import attacked, bent, patched
from itercomp_rl.reward.preference import preference_loss
from itercomp_rl.shapes.models import MAX_TOKENS
from itercomp_rl.shapes.render import PALETTE, SIZE, Placement, place, render
from itercomp_rl.shapes.scenes import COLOURS, SPATIAL, Scene, one_aspect_wrong

log = logging.getLogger(__name__)

DRAWN = 5
NUM_SPOILT = 32  # clean and spoilt pairs of renders a step
ATTACK_STEPS = 4
ATTACK_RMS = (0.018, 0.108)  # root mean square of an attack's change to an image in 0..1; a smear has about 0.07
ATTACK_RAMP = 300  # training steps over which attacks grow to their size


def conv_trunk_config(text_encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerFast) -> ConvConfig:
    """Three blocks, from 32 to 4 pixels; the prompt is read by the policy's own frozen text encoder."""
    names = ("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads")
    text: dict[str, Any] = {name: getattr(text_encoder.config, name) for name in names}
    ids = tokenizer.get_vocab()
    marks = {"pad_token_id": ids["[PAD]"], "bos_token_id": ids["[CLS]"], "eos_token_id": ids["[EOS]"]}
    return ConvConfig(
        image_size=SIZE,
        widths=(48, 96, 128),
        feature_width=256,
        max_text_tokens=MAX_TOKENS,
        text=text | marks | {"vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS},
    )


def train_conv_trunk(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: CLIPTextModel,
    sources: list[Source],
    *,
    num_pictures: int,
    num_steps: int,
    seed: int,
    lessons: Callable[[CaptionTable, np.random.Generator], Lessons] = composition,
    name: str = "conv-trunk",
) -> tuple[ConvReward, dict[str, float]]:
    """The trunk and its held-out accuracies; pictures come from `sources`, as `picture_pool` makes them."""
    table = CaptionTable("train", tokenizer)
    model = ConvReward(conv_trunk_config(text_encoder, tokenizer), tokenizer, seed=seed)
    model.text.load_state_dict(text_encoder.state_dict())
    model.text.requires_grad_(False)
    pictures = picture_pool(folder / f"{name}-train.safetensors", table, sources, num_pictures, seed)
    questions = _Questions(model, table, pictures, lessons(table, np.random.default_rng(seed)), seed)
    train(name, model, questions.loss, num_steps=num_steps, lr=1.5e-3, folder=folder, ema=0.998, seed=seed)
    return model, measure_conv_trunk(model, folder / f"{name}-test.safetensors", sources, seed)


class _Questions:
    """What each step asks the model: three cross entropies in one loss."""

    def __init__(
        self, model: ConvReward, table: CaptionTable, pictures: dict[str, Tensor], lessons: Lessons, seed: int
    ) -> None:
        self.model, self.table, self.pictures, self.lessons, self.seed = model, table, pictures, lessons, seed
        self.pooled = pooled_captions(model, table)

    def _right(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Rows [N] of captions that count as the scenes' own; a scene with one right caption draws nothing."""
        right = self.lessons.right[rows]
        if right.shape[1] == 1:
            return right[:, 0]
        return right.gather(1, torch.randint(right.shape[1], (len(rows), 1), generator=generator))[:, 0]

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of one step, for `train`."""
        pick = torch.randint(len(self.pictures["pictures"]), (64,), generator=generator)
        rows = self.pictures["rows"][pick]
        image = _seen(self.pictures["pictures"][pick].float() / 255, generator)
        losses = self._matching(image, rows, generator)
        losses["telling"] = self._telling(rows[:NUM_SPOILT], step, generator)
        return torch.stack([*losses.values()]).sum(), {name: loss.item() for name, loss in losses.items()}

    def _matching(self, image: Tensor, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross entropy of a picture's own caption among some wrong ones, for each kind of wrong."""
        feature = self.model.encode_image(self.model.preprocess(image))
        losses = {}
        for kind, wrong in self.lessons.wrong.items():
            drawn = wrong[rows].gather(1, torch.randint(NUM_WRONG, (len(rows), DRAWN), generator=generator))
            captions = torch.cat([self._right(rows, generator)[:, None], drawn], dim=1)
            way = torch.randint(NUM_WAYS, captions.shape, generator=generator)
            raw = self.model.score_pooled(feature, self.pooled[captions, way])
            losses[kind] = F.cross_entropy(raw, torch.zeros(len(rows), dtype=torch.long))
        return losses

    def _telling(self, rows: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Bradley-Terry: a clean render beats a spoilt one."""
        scenes = [self.table.scenes[row] for row in rows.tolist()]
        rng = np.random.default_rng(self.seed * 1_000_003 + step)
        clean, spoilt = clean_and_spoilt(scenes, self.lessons, rng, generator)
        text = self.pooled[self._right(rows, generator), torch.randint(NUM_WAYS, (len(rows),), generator=generator)]
        num = len(rows) // 2  # half of them are attacked too, of those a half from the clean picture
        start = torch.cat([clean[: num // 2], spoilt[num // 2 : num]])
        rms = torch.empty(num).uniform_(*ATTACK_RMS, generator=generator) * min(1.0, step / ATTACK_RAMP)

        def score(image: Tensor) -> Tensor:
            return self.model.score_pooled(self.model.encode_image(self.model.preprocess(image)), text[:num])

        spoilt = torch.cat([attacked(score, start, rms, ATTACK_STEPS, generator), spoilt[num:]])
        images = _seen(torch.cat([clean, spoilt]), generator)
        feature = self.model.encode_image(self.model.preprocess(images))
        better, worse = self.model.score_pooled(feature, torch.cat([text, text])).chunk(2)
        return preference_loss(better, worse)


@torch.no_grad()
def pooled_captions(model: ConvReward, table: CaptionTable) -> Tensor:
    """The text encoder's pooled state of every caption, [scenes, NUM_WAYS, width]."""
    states = [model.text(input_ids=ids).pooler_output for ids in table.ids.flatten(0, 1).split(512)]
    return torch.cat(states).view(len(table.scenes), NUM_WAYS, -1)


def clean_and_spoilt(
    scenes: list[Scene], lessons: Lessons, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Renders [N,3,32,32] of `scenes` in 0..1, and the same spoilt in one way each.

    A third shows a part, or a share of the colour, of another scene (some tied scenes lose their line instead), a third
    is bent out of shape, a third is smeared with colours.
    """
    layouts = [place(scene, rng) for scene in scenes]
    clean = _pixels(scenes, layouts)
    others = lessons.others(scenes, rng)
    spoilt = [_mixed(clean, others, layouts, generator), bent(clean, generator), _smeared(clean, generator)]
    way = torch.randint(len(spoilt), (len(scenes),), generator=generator)
    return clean, torch.stack(spoilt)[way, torch.arange(len(scenes))]


def _pixels(scenes: list[Scene], layouts: list[Placement]) -> Tensor:
    return torch.from_numpy(render(scenes, layouts)).permute(0, 3, 1, 2).float() / 255


def _mixed(
    clean: Tensor, others: list[tuple[Scene, bool]], layouts: list[Placement], generator: torch.Generator
) -> Tensor:
    """With patches or a haze of another scene in the same layout, or that scene alone."""
    other = _pixels([scene for scene, _ in others], layouts)
    is_whole = torch.tensor([whole for _, whole in others]).view(-1, 1, 1, 1)
    return other.where(is_whole, patched(clean, other, generator))


def _smeared(clean: Tensor, generator: torch.Generator) -> Tensor:
    """With one to three soft blobs of colours of the palette."""
    num = len(clean)
    at = torch.arange(SIZE) + 0.5
    palette = torch.tensor([PALETTE[colour] for colour in COLOURS]) / 255
    for blob in range(3):
        x, y, radius, alpha, there = torch.rand(5, num, 1, 1, generator=generator)
        far = ((at - x * SIZE) ** 2 + (at[:, None] - y * SIZE) ** 2).sqrt() / (2 + 5 * radius)
        cover = torch.sigmoid(6 * (1 - far)) * (0.3 + 0.7 * alpha) * (1.0 if blob == 0 else (there < 0.5).float())
        colour = palette[torch.randint(len(palette), (num,), generator=generator)].view(num, 3, 1, 1)
        clean = torch.lerp(clean, colour, cover.unsqueeze(1))
    return clean


def _seen(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved by up to a pixel and noised, so that no single pixel decides."""
    x, y = torch.randint(3, (2,), generator=generator).tolist()
    image = F.pad(image, (1,) * 4, mode="replicate")[..., y : y + SIZE, x : x + SIZE]
    noise = 0.04 * torch.rand(len(image), 1, 1, 1, generator=generator)
    return (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def measure_conv_trunk(
    model: ConvReward, pictures_file: Path, sources: list[Source], seed: int, num: int = 2000
) -> dict[str, float]:
    """Share of held-out pictures whose own caption beats one wrong in one aspect, by aspect and noise level.

    "line": pictures of two things apart, against the caption that they are tied.
    """
    assert model.tokenizer is not None
    table = CaptionTable("test", model.tokenizer)
    data = picture_pool(pictures_file, table, sources, num, seed + 1)
    rng, pooled = np.random.default_rng(seed), pooled_captions(model, table)
    model.eval()
    pictures = data["pictures"].split(256)
    feature = torch.cat([model.encode_image(model.preprocess(part.float() / 255)) for part in pictures])
    pairs: dict[str, list[tuple[int, int, int]]] = {}
    for i, row in enumerate(data["rows"].tolist()):
        scene = table.scenes[row]
        level = "" if data["timesteps"][i] < 400 else "_noisy"
        wrong = {aspect: one_aspect_wrong(scene, aspect, rng) for aspect in scene.aspects}
        if scene.relation in ("and", *SPATIAL):
            wrong["line"] = Scene("tied", scene.first, scene.second)
        for aspect, other in wrong.items():
            if other in table.row:
                pairs.setdefault(aspect + level, []).append((i, row, table.row[other]))
    found = {}
    for name, items in sorted(pairs.items()):
        picture, right, other = torch.tensor(items).T
        way = torch.from_numpy(rng.integers(NUM_WAYS, size=len(items)))
        raw = [model.score_pooled(feature[picture], pooled[rows, way]) for rows in (right, other)]
        found |= {name: (raw[0] > raw[1]).float().mean().item(), f"{name}_n": len(items)}
    return found
