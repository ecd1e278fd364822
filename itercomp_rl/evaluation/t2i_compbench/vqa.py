"""BLIP answers yes or no: the probability that a picture shows a thing (BLIP-VQA of T2I-CompBench)."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BlipConfig, BlipForQuestionAnswering, BlipTextConfig, BlipVisionConfig

from itercomp_rl.evaluation.t2i_compbench.geometry import Mode
from itercomp_rl.evaluation.t2i_compbench.loading import from_checkpoint

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
VISION_EPS = 1e-6  # of BLIP's own code; converted configs say 1e-5


def phrases_score(p_yes: Sequence[float], mode: Mode) -> float:
    """The product over a prompt's questions; 1 without a question.

    mode "official" rounds each answer and the product to four decimals and multiplies in float32, as the benchmark
    passes answers on as text. Source: T2I-CompBench (arXiv 2307.06350), BLIPvqa_eval.
    """
    if mode == "fixed":
        return float(np.prod(p_yes))
    product = np.float32(1)
    for p in p_yes:
        product = np.float32(product * np.float32(f"{p:.4f}"))
    return float(f"{product:.4f}")


class BlipVqa:
    """A BlipForQuestionAnswering checkpoint, asked as BLIP's own code asks it."""

    def __init__(self, checkpoint: str, device: torch.device) -> None:
        config = from_checkpoint(BlipConfig.from_pretrained, checkpoint)
        vision = cast(BlipVisionConfig, config.vision_config)
        vision.layer_norm_eps = VISION_EPS
        model = from_checkpoint(BlipForQuestionAnswering.from_pretrained, checkpoint, config=config)
        tokenizer = from_checkpoint(AutoTokenizer.from_pretrained, checkpoint)
        model.to(device)  # type: ignore[arg-type]  # transformers' wrapper of Module.to hides its signature
        self._model = model.eval().requires_grad_(False)
        self._tokenizer, self._device = tokenizer, device
        self._dec: int = cast(BlipTextConfig, config.text_config).bos_token_id  # type: ignore[assignment]  # BLIP sets it
        self._enc = self._dec + 1  # BLIP appends [DEC] and then [ENC] to BERT's vocabulary
        self._yes, self._no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        self._side = cast(int, vision.image_size)

    def p_yes(self, image: NDArray[np.uint8], questions: Sequence[str]) -> list[float]:
        """p(yes) / (p(yes) + p(no)) of each question about an image [H, W, 3]."""
        if not questions:
            return []
        pixels = pixels_of(image, (self._side, self._side)).to(self._device)
        ids = [self._tokenizer(question, truncation=True, max_length=35).input_ids for question in questions]
        return self.p_yes_of(pixels, [torch.tensor(row) for row in ids])

    @torch.no_grad()
    def p_yes_of(self, pixels_13HW: Tensor, questions: Sequence[Tensor]) -> list[float]:
        """The same of preprocessed pixels and token ids, [CLS] first.

        One question at a time: transformers' BLIP decoder ignores the mask of padded questions.
        """
        image_1ND = self._model.vision_model(pixel_values=pixels_13HW).last_hidden_state
        found = []
        for ids in questions:
            ids_1L = ids.to(self._device)[None].clone()
            ids_1L[:, 0] = self._enc
            question = self._model.text_encoder(
                input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L), encoder_hidden_states=image_1ND
            )
            logits = self._model.text_decoder(
                input_ids=torch.full((1, 1), self._dec, device=self._device),
                encoder_hidden_states=question.last_hidden_state,
            ).logits[0, 0]
            yes_no = logits[[self._yes, self._no]].float().softmax(0)
            found.append(yes_no[0].item())
        return found


def pixels_of(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """An image [H, W, 3] resized (bicubic) to (width, height), normalised as CLIP wants it: [1, 3, height, width]."""
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    normal = (resized - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)[None]
