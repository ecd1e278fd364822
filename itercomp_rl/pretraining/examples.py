"""What the embedded world's UNets learn from: training pictures as latents, and captions of which some are wrong."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from itercomp_rl.files.whole import appearing
from itercomp_rl.shapes.models import TEXT_WIDTH, make_tokenizer
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import Scene, World, caption, draw_scenes, one_aspect_wrong, split_of

NUM_WAYS = 4  # templates taken per relation (shorter lists count round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """Probabilities that a picture's caption is wrong in an aspect."""

    attribute: float
    spatial: float
    non_spatial: float


class Captions:
    """Every training scene's token ids, [scenes, NUM_WAYS, tokens]: scenes are looked up by `row`."""

    def __init__(self, world: World) -> None:
        self.tokenizer: PreTrainedTokenizerFast = make_tokenizer()
        self.scenes = world.scenes("train")
        self.row = {scene: i for i, scene in enumerate(self.scenes)}
        texts = [caption(scene, way) for scene in self.scenes for way in range(NUM_WAYS)]
        ids = self.tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]
        assert isinstance(ids, Tensor)
        if ids.shape[1] > self.tokenizer.model_max_length or (ids == self.tokenizer.get_vocab()["[UNK]"]).any():
            raise ValueError("a caption is truncated or holds an unknown word")
        self.ids = ids.view(len(self.scenes), NUM_WAYS, -1)


def pictures(num: int, seed: int) -> tuple[list[Scene], Tensor]:
    """`num` training scenes and their pixels [num, 3, 32, 32] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(World(), "train", num, rng)
    pixels = render(scenes, [place(scene, rng) for scene in scenes])
    return scenes, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_latents(path: Path, captions: Captions, vae: AutoencoderKL, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scaled latents [N, 8, 8, 8] of `num` training pictures and, per picture, caption rows [N, 4]; made if not there.

    The four columns: right, attribute wrong, relation wrong, both wrong; a wrong caption of a held-out combination is
    replaced by the right one, so that no stage sees such a combination.
    """
    if not path.exists():
        rng = np.random.default_rng(seed + 7)
        rows, latents = [], []
        for start in range(0, num, 500):
            scenes, x = pictures(min(500, num - start), 1_000_000 + start)
            with torch.no_grad():
                posterior = vae.encode(x, return_dict=False)[0]
                z = posterior.sample(torch.Generator().manual_seed(start))
            latents.append((z * vae.config["scaling_factor"]).half())
            rows += [_caption_rows(scene, captions.row, rng) for scene in scenes]
        with appearing(path) as partial:
            save_file({"latents": torch.cat(latents).contiguous(), "rows": torch.tensor(rows)}, partial)
    saved = load_file(path)
    return saved["latents"].float(), saved["rows"]


def _caption_rows(scene: Scene, row: dict[Scene, int], rng: np.random.Generator) -> list[int]:
    relation = scene.aspects[-1] if len(scene.aspects) > 1 else None
    swapped = one_aspect_wrong(scene, "attribute", rng)
    if split_of(swapped.combination) != "train":
        swapped = scene
    related, both = scene, swapped
    if relation:
        related, both = one_aspect_wrong(scene, relation, rng), one_aspect_wrong(swapped, relation, rng)
    return [row[scene], row[swapped], row[related], row[both]]


class LatentStream:
    """Batches of noise-prediction examples, captions made wrong with given probabilities."""

    def __init__(self, captions: Captions, text_encoder: CLIPTextModel, latents: Tensor, rows: Tensor) -> None:
        """Latents and rows as `load_latents` gives them."""
        self.latents, self.rows = latents, rows
        with torch.no_grad():
            states = [text_encoder(input_ids=ids).last_hidden_state for ids in captions.ids.flatten(0, 1).split(512)]
        self.states = torch.cat(states).view(*captions.ids.shape[:2], -1, TEXT_WIDTH)
        # The second aspect of each picture: 0 none, 1 spatial, 2 non-spatial.
        kinds = {"spatial": 1, "non_spatial": 2}
        self.kind = torch.tensor([kinds.get(captions.scenes[r].aspects[-1], 0) for r in self.rows[:, 0].tolist()])

    def batch(self, size: int, wrong: Wrong | None, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B,8,8,8], text states [B,T,W] and indices [B] of the pictures."""
        pick = torch.randint(len(self.latents), (size,), generator=generator)
        column = torch.zeros(size, dtype=torch.long)
        if wrong:
            chance = torch.tensor([0.0, wrong.spatial, wrong.non_spatial])[self.kind[pick]]
            column = (torch.rand(size, generator=generator) < wrong.attribute).long()
            column += 2 * (torch.rand(size, generator=generator) < chance).long()
        way = torch.randint(NUM_WAYS, (size,), generator=generator)
        return self.latents[pick], self.states[self.rows[pick, column], way], pick
