"""CLIP's view of an image and a text: their cosine (CLIPScore), and LAION's aesthetic score of the image alone."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from itercomp_rl.evaluation.t2i_compbench.loading import from_checkpoint
from itercomp_rl.evaluation.t2i_compbench.vqa import pixels_of
from itercomp_rl.reward.aesthetic_head import load_aesthetic_head


class Clip:
    """A CLIPModel checkpoint; images are preprocessed as OpenAI's code does."""

    def __init__(self, checkpoint: str, device: torch.device) -> None:
        model = from_checkpoint(CLIPModel.from_pretrained, checkpoint)
        model.to(device)  # type: ignore[arg-type]  # transformers' wrapper of Module.to hides its signature
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = from_checkpoint(AutoTokenizer.from_pretrained, checkpoint)
        self._device = device
        self._side = cast(int, cast(CLIPVisionConfig, model.config.vision_config).image_size)
        self._length = cast(CLIPTextConfig, model.config.text_config).max_position_embeddings

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return cast(int, self._model.config.projection_dim)

    @torch.no_grad()
    def cosine(self, image: NDArray[np.uint8], text: str) -> float:
        """Cosine of an image [H, W, 3] and a text, not scaled and not clipped at 0; long texts are cut."""
        tokens = self._tokenizer(text, truncation=True, max_length=self._length, return_tensors="pt").to(self._device)
        hidden = self._model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        text_1D = nn.functional.normalize(self._model.text_projection(hidden.pooler_output), dim=-1)
        return float((self.embed(image) * text_1D).sum())

    @torch.no_grad()
    def embed(self, image: NDArray[np.uint8]) -> Tensor:
        """Unit embedding [1, D] of an image [H, W, 3]."""
        pixels = pixels_of(_centre(image), (self._side, self._side)).to(self._device)
        hidden = self._model.vision_model(pixel_values=pixels)
        return nn.functional.normalize(self._model.visual_projection(hidden.pooler_output), dim=-1)


def _centre(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle square: for the square images of models the same as resizing first."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


class Aesthetic:
    """LAION's linear head on CLIP ViT-L/14: about 1 (ugly) to 10 (beautiful).

    Source: christophschuhmann/improved-aesthetic-predictor, whose state dict (layers.{0,2,4,6,7}) is read as it is.
    """

    def __init__(self, clip: Clip, head: str) -> None:
        self._clip = clip
        self._layers = load_aesthetic_head(head, clip.width)

    @torch.no_grad()
    def score(self, image: NDArray[np.uint8]) -> float:
        """The score of an image [H, W, 3]."""
        return float(self._layers(self._clip.embed(image).float().cpu()))


def check_aesthetic(clip: str, head: str) -> None:
    """Raises: CheckpointError if the head cannot be had or does not fit CLIP, of which no weights are read."""
    load_aesthetic_head(head, cast(int, from_checkpoint(CLIPConfig.from_pretrained, clip).projection_dim))
