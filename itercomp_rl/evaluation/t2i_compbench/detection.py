"""Where named things are and how near: an open-vocabulary detector and a depth model stand for UniDet's experts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)

from itercomp_rl.evaluation.t2i_compbench.geometry import Detection
from itercomp_rl.evaluation.t2i_compbench.loading import from_checkpoint


class OpenDetector:
    """Any transformers zero-shot detector: Grounding-DINO, OWL-ViT, OWLv2 and others with the same post-processing."""

    def __init__(self, checkpoint: str, threshold: float, device: torch.device) -> None:
        model = from_checkpoint(AutoModelForZeroShotObjectDetection.from_pretrained, checkpoint)
        self._model = model.to(device).eval().requires_grad_(False)
        self._processor = from_checkpoint(AutoProcessor.from_pretrained, checkpoint)
        self._threshold, self._device = threshold, device

    @torch.no_grad()
    def detect(self, image: NDArray[np.uint8], names: Sequence[str]) -> list[Detection]:
        """What of `names` an image [H, W, 3] shows, surest first; boxes in its pixels.

        Names are asked one at a time, so that every box has exactly one name: a detector's own merging of phrases would
        invent names such as "cat dog".
        """
        found = []
        for name in dict.fromkeys(names):
            inputs = self._processor(images=Image.fromarray(image), text=[[f"{name}."]], return_tensors="pt")
            outputs = self._model(**inputs.to(self._device))
            (result,) = self._processor.post_process_grounded_object_detection(
                outputs, threshold=self._threshold, target_sizes=[image.shape[:2]]
            )
            for score, box in zip(result["scores"].tolist(), result["boxes"].tolist(), strict=True):
                found.append(Detection(name=name, score=score, box=tuple(box)))
        return sorted(found, key=lambda detection: -detection.score)


class DepthModel:
    """Any transformers depth model whose values grow towards the viewer, as Depth-Anything's and MiDaS' (DPT) do."""

    def __init__(self, checkpoint: str, device: torch.device) -> None:
        model = from_checkpoint(AutoModelForDepthEstimation.from_pretrained, checkpoint)
        self._model = model.to(device).eval().requires_grad_(False)
        self._processor = from_checkpoint(AutoImageProcessor.from_pretrained, checkpoint)
        self._device = device

    @torch.no_grad()
    def nearness(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Relative nearness [H, W] of an image [H, W, 3] in whole steps of 0..255, as the benchmark stores it."""
        inputs = self._processor(images=Image.fromarray(image), return_tensors="pt").to(self._device)
        depth = self._model(**inputs).predicted_depth.float()
        depth = (depth - depth.min()) / (depth.max() - depth.min()).clamp_min(1e-12)
        resized = torch.nn.functional.interpolate(
            depth[:, None], size=image.shape[:2], mode="bilinear", align_corners=True
        )
        return (255 * resized[0, 0]).floor().cpu().numpy()
