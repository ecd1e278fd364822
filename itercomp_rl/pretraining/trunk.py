"""The reward trunk's pretraining: image-text matching against captions wrong in one aspect, the counterpart of BLIP's.

The pictures are what feedback learning will show it: renders, and clean-image predictions of the base model mid-flight.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from itercomp_rl.files.whole import appearing
from itercomp_rl.pretraining.training import train
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.shapes.models import MAX_TOKENS, make_scheduler
from itercomp_rl.shapes.render import SIZE, cover_of, place, render
from itercomp_rl.shapes.scenes import (
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    World,
    caption,
    draw_scenes,
    one_aspect_wrong,
    split_of,
)

log = logging.getLogger(__name__)

PATCH = 4  # pixels
NUM_WAYS = 4
NAMES = (len(COLOURS) + 1, len(SHAPES) + 1)  # classes of what a patch shows


def trunk_config(tokenizer: PreTrainedTokenizerFast) -> RewardConfig:
    """A BLIP scorer small enough for two cores: 8 x 8 image patches, 16 words."""
    return RewardConfig(
        image_size=SIZE,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        vision={
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "patch_size": PATCH,
            "intermediate_size": 256,
        },
        text={
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_TOKENS,
            "pad_token_id": tokenizer.get_vocab()["[PAD]"],
        },
        max_text_tokens=MAX_TOKENS,
        mlp_widths=(64, 16),
        mlp_dropouts=(0.1, 0.1),
        mlp_init="unit_gain",
        drop_path=0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model whose mid-flight predictions are pictures: its share of all, and the noise level it starts below."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    share: float
    max_t: int  # of 1000 noise levels


def make_pictures(scenes: list[Scene], source: Source, states: Tensor, seed: int) -> dict[str, Tensor]:
    """Pictures [N,3,32,32] u8 of `scenes`, and what each 4x4 patch shows.

    A third is rendered, the rest are predicted mid-flight.

    states: the text encoder's output for each scene, [N, tokens, width].
    """
    vae, unet = source.vae, source.unet
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    layouts = [place(scene, rng) for scene in scenes]
    pixels = torch.from_numpy(render(scenes, layouts)).permute(0, 3, 1, 2).float() / 127.5 - 1
    scheduler, scale = make_scheduler(), vae.config["scaling_factor"]
    timesteps = torch.zeros(len(scenes), dtype=torch.long)
    pictures = []
    for start in range(0, len(scenes), 256):
        x = pixels[start : start + 256]
        with torch.no_grad():
            z = vae.encode(x, return_dict=False)[0].sample(generator) * scale
            t = torch.randint(0, source.max_t, (len(x),), generator=generator)
            noise = torch.randn(z.shape, generator=generator)
            noised = scheduler.add_noise(z, noise, t)  # type: ignore[arg-type]
            v = unet(noised, t, states[start : start + 256]).sample
            abar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            x0 = abar.sqrt() * noised - (1 - abar).sqrt() * v
            plain = torch.rand(len(x), generator=generator) < 1 / 3
            rough = z + noise * 0.3 * torch.rand(len(x), 1, 1, 1, generator=generator)
            x0 = torch.where(plain.view(-1, 1, 1, 1), rough, x0)
            pictures.append(((vae.decode(x0 / scale, return_dict=False)[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte())
            timesteps[start : start + 256] = torch.where(plain, torch.zeros_like(t), t)
    colour, shape = _patches(scenes, layouts)
    return {"pictures": torch.cat(pictures), "colour": colour, "shape": shape, "timesteps": timesteps}


def _patches(scenes: list[Scene], layouts: list) -> tuple[Tensor, Tensor]:
    """Colour and shape classes [N, 64] of what covers most of each patch, 0 for neither object."""
    covers = [
        cover_of([getattr(s, part) for s in scenes], np.array([getattr(place_, part) for place_ in layouts]))
        for part in ("first", "second")
    ]
    classes = []
    for names, kind in ((COLOURS, "colour"), (SHAPES, "shape")):
        found = torch.zeros(len(scenes), (SIZE // PATCH) ** 2, dtype=torch.long)
        for cover, part in ((covers[1], "second"), (covers[0], "first")):  # the first lies on top
            share = F.avg_pool2d(torch.from_numpy(cover).float().unsqueeze(1), PATCH).flatten(1)
            name = torch.tensor([1 + names.index(getattr(getattr(s, part), kind)) for s in scenes])
            found = torch.where(share > 0.4, name[:, None], found)
        classes.append(found)
    return classes[0], classes[1]


def wrong_rows(scenes: list[Scene], row: dict[Scene, int], split: str, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """For each scene `num` rows of captions wrong in attribute and `num` wrong in its relation, all of the same split.

    A scene without a relation aspect gets attribute negatives twice. Captions of another split never appear: as
    eternal negatives they would teach that held-out combinations are wrong.
    """
    rng = np.random.default_rng(seed)
    attribute, relation = [], []
    for scene in scenes:
        swapped = one_aspect_wrong(scene, "attribute", rng)
        candidates = [s for s in (swapped,) * 4 if split_of(s.combination) == split]
        for _ in range(200):
            if len(candidates) >= 2 * num:
                break
            part = rng.integers(2)
            thing = (scene.first, scene.second)[part]
            new = (
                Thing(COLOURS[rng.integers(len(COLOURS))], thing.shape)
                if rng.integers(2)
                else Thing(thing.colour, SHAPES[rng.integers(len(SHAPES))])
            )
            other = Scene(scene.relation, new, scene.second) if part == 0 else Scene(scene.relation, scene.first, new)
            if new != thing and other in row:
                candidates.append(other)
        attribute.append(
            [row[candidates[i % len(candidates)]] for i in range(num)] if candidates else [row[scene]] * num
        )
        kinds = scene.aspects[1:]
        relation.append(
            [row[one_aspect_wrong(scene, kinds[0], rng)] for _ in range(num)] if kinds else attribute[-1][::-1]
        )
    return torch.tensor(attribute), torch.tensor(relation)


class CaptionTable:
    """Token ids and masks of every caption of a split: [scenes, NUM_WAYS, tokens]."""

    def __init__(self, split: str, tokenizer: PreTrainedTokenizerFast) -> None:
        self.split = split
        self.scenes = World().scenes(split)
        self.row = {scene: i for i, scene in enumerate(self.scenes)}
        texts = [caption(scene, way) for scene in self.scenes for way in range(NUM_WAYS)]
        tokens = tokenizer(texts, padding="max_length", return_tensors="pt")
        shape = (len(self.scenes), NUM_WAYS, -1)
        self.ids, self.mask = tokens["input_ids"].view(*shape), tokens["attention_mask"].view(*shape)


def train_trunk(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    sources: list[Source],
    *,
    num_pictures: int,
    num_steps: int,
    seed: int,
) -> tuple[RewardModel, dict[str, float]]:
    """The trunk and its held-out accuracies; pictures come from `sources`, as `picture_pool` makes them."""
    table = CaptionTable("train", tokenizer)
    data = picture_pool(folder / "trunk-train.safetensors", table, sources, num_pictures, seed)
    attribute, relation = wrong_rows(table.scenes, table.row, "train", 8, seed)
    model = RewardModel(trunk_config(tokenizer), tokenizer, seed=seed)
    reader = _Reader(model)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        size = 48
        pick = torch.randint(len(data["pictures"]), (size,), generator=generator)
        image = data["pictures"][pick].float() / 255
        image = (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
        rows = data["rows"][pick]
        which = torch.randint(8, (size, 3), generator=generator)
        captions = torch.stack(
            [rows, attribute[rows, which[:, 0]], relation[rows, which[:, 1]], attribute[rows, which[:, 2]]], dim=1
        )
        way = torch.randint(NUM_WAYS, (size, 1), generator=generator)
        tokens = model.encode_image(model.preprocess(image))
        losses, right = reader.losses(tokens, table.ids[captions, way], table.mask[captions, way], generator)
        losses["naming"] = reader.naming(tokens, *(data[name][pick] for name in ("colour", "shape")))
        shown = {name: loss.item() for name, loss in losses.items()}
        return sum(losses.values(), torch.zeros(())), shown | {"attribute": right[0], "relation": right[1]}

    train("trunk", reader, loss_of, num_steps=num_steps, lr=1e-3, folder=folder, ema=0.998, seed=seed)
    return model, measure_trunk(model, folder, tokenizer, sources, seed)


class _Reader(nn.Module):
    """The trunk with the heads that its pretraining needs and that are thrown away after.

    Matching alone does not bind: at this size it memorises pairs. Three objectives name what it must look at: which
    thing each image patch shows, which word was hidden (BLIP's language objective), and which words of a caption are
    wrong.
    """

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model
        vision, text = int(model.config.vision["hidden_size"]), int(model.config.text["hidden_size"])
        self.namer = nn.Linear(vision, sum(NAMES))
        self.speller = nn.Linear(text, int(model.config.text["vocab_size"]))
        self.checker = nn.Linear(text, 1)

    def naming(self, tokens: Tensor, *labels: Tensor) -> Tensor:
        """Cross entropy of each patch's colour and shape."""
        named = self.namer(tokens[:, 1:]).flatten(0, 1).split(NAMES, dim=1)
        losses = [F.cross_entropy(name, label.flatten()) for name, label in zip(named, labels, strict=True)]
        return torch.stack(losses).sum()

    def losses(
        self, tokens: Tensor, ids: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], list[float]]:
        """Losses of four captions an image, [B, 4, L], the first right; and how often it beats the second and third."""
        assert self.model.tokenizer is not None
        size, num, length = ids.shape
        words = mask.bool()
        # Hidden words: any but the special ones, three in ten.
        hidden = (torch.rand(size, length, generator=generator) < 0.3) & (ids[:, 0] > 3)
        masked = torch.where(hidden, self.model.tokenizer.get_vocab()["[UNK]"], ids[:, 0])
        states = self._states(tokens, torch.cat([ids, masked[:, None]], dim=1), torch.cat([mask, mask[:, :1]], dim=1))
        raw = self.model.mlp(states[:, :num, 0])
        wrong = (ids != ids[:, :1]) & words
        # The third caption has another relation, whose words stand elsewhere: only the others line up word by word.
        aligned = words.clone()
        aligned[:, 2] = False
        checked = self.checker(states[:, :num]).squeeze(-1)
        losses = {
            "matching": F.cross_entropy(raw, torch.zeros(size, dtype=torch.long)),
            "spelling": F.cross_entropy(self.speller(states[:, num][hidden]), ids[:, 0][hidden]),
            "checking": 2 * F.binary_cross_entropy_with_logits(checked[aligned], wrong[aligned].float()),
        }
        return losses, (raw[:, :1] > raw[:, 1:3]).float().mean(0).tolist()

    def _states(self, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        size, num, length = ids.shape
        image = tokens.repeat_interleave(num, dim=0)
        found = self.model.text(
            input_ids=ids.reshape(-1, length),
            attention_mask=mask.reshape(-1, length),
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long),
            is_decoder=False,
        )
        return found.last_hidden_state.view(size, num, length, -1)


def picture_pool(path: Path, table: CaptionTable, sources: list[Source], num: int, seed: int) -> dict[str, Tensor]:
    """About `num` pictures of the table's split with the rows of their captions, kept in `path`; as `make_pictures`."""
    if not path.exists():
        parts = []
        for i, source in enumerate(sources):
            rng = np.random.default_rng(seed + 31 * i)
            scenes = draw_scenes(World(), table.split, round(num * source.share), rng)
            rows = torch.tensor([table.row[scene] for scene in scenes])
            way = torch.from_numpy(rng.integers(NUM_WAYS, size=len(rows)))
            with torch.no_grad():
                states = torch.cat(
                    [source.text_encoder(input_ids=ids).last_hidden_state for ids in table.ids[rows, way].split(512)]
                )
            parts.append({**make_pictures(scenes, source, states, seed + i), "rows": rows})
        with appearing(path) as partial:
            save_file({key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}, partial)
        log.info("made %d pictures (%s)", num, table.split)
    return load_file(path)


@torch.no_grad()
def measure_trunk(
    model: RewardModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    sources: list[Source],
    seed: int,
    num: int = 2000,
) -> dict[str, float]:
    """Share of held-out pictures whose right caption beats one wrong in one aspect, by aspect and noise level."""
    table = CaptionTable("test", tokenizer)
    data = picture_pool(folder / "trunk-test.safetensors", table, sources, num, seed + 1)
    rng = np.random.default_rng(seed)
    model.eval()
    pairs: dict[str, list[tuple[int, int, int]]] = {}
    for i, row in enumerate(data["rows"].tolist()):
        scene = table.scenes[row]
        level = "" if data["timesteps"][i] < 400 else "_noisy"
        for aspect in scene.aspects:
            other = table.row.get(one_aspect_wrong(scene, aspect, rng))
            if other is not None:
                pairs.setdefault(aspect + level, []).append((i, row, other))
    found = {}
    for name, items in sorted(pairs.items()):
        picture, right, wrong = torch.tensor(items).T
        captions = torch.stack([right, wrong], dim=1)
        way = torch.from_numpy(rng.integers(NUM_WAYS, size=tuple(captions.shape)))
        wins = []
        for part in torch.arange(len(items)).split(256):
            tokens = model.encode_image(model.preprocess(data["pictures"][picture[part]].float() / 255))
            raw = model.score_tokens(
                tokens, table.ids[captions[part], way[part]], table.mask[captions[part], way[part]]
            )
            wins.append(raw[:, 0] > raw[:, 1])
        found[name] = torch.cat(wins).float().mean().item()
        found[f"{name}_n"] = len(items)
    return found
