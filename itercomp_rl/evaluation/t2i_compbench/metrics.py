"""T2I-CompBench's metrics: what each asks of a prompt and of an image, and which categories each stands for.

    color shape texture   BLIP-VQA of the noun phrases     spatial 3d_spatial numeracy   geometry of detections
    non_spatial           CLIPScore                        complex                       3-in-1 of the above
Source: T2I-CompBench (arXiv 2307.06350) and T2I-CompBench++.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.schema import CompBenchConfig
from itercomp_rl.evaluation.t2i_compbench.clip import Clip
from itercomp_rl.evaluation.t2i_compbench.detection import DepthModel, OpenDetector
from itercomp_rl.evaluation.t2i_compbench.geometry import (
    RELATIONS_2D,
    RELATIONS_3D,
    Mode,
    relation_of,
    score_2d,
    score_3d,
    score_counts,
)
from itercomp_rl.evaluation.t2i_compbench.language import Language
from itercomp_rl.evaluation.t2i_compbench.loading import check_checkpoint
from itercomp_rl.evaluation.t2i_compbench.vqa import BlipVqa, phrases_score
from itercomp_rl.prompt_sets.compbench import ComplexKind, complex_kind

Picture = NDArray[np.uint8]  # [H, W, 3]

# Whose official metric needs UniDet: with an open-vocabulary detector the numbers are not the benchmark's.
NOT_COMPARABLE = ("spatial", "3d_spatial", "numeracy", "complex")
MAX_PHRASES = 8


def three_in_one(kind: ComplexKind, attribute: float, spatial: float, action: float) -> float:
    """The complex score: the mean of the metrics that the prompt's kind is about."""
    parts = {"spatial": (attribute, spatial), "action": (attribute, action), "both": (attribute, spatial, action)}[kind]
    return sum(parts) / len(parts)


class Metrics:
    """Every metric over one set of models, each loaded when it is first needed."""

    def __init__(self, settings: CompBenchConfig, device: torch.device) -> None:
        self._settings, self._device = settings, device
        self.mode: Mode = "official" if settings.mode == "official" else "fixed"
        self.language = Language(settings.spacy)

    @cached_property
    def _vqa(self) -> BlipVqa:
        return BlipVqa(self._settings.vqa, self._device)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self._settings.clip, self._device)

    @cached_property
    def _detector(self) -> OpenDetector:
        return OpenDetector(self._settings.detector, self._settings.threshold, self._device)

    @cached_property
    def _depth(self) -> DepthModel:
        return DepthModel(self._settings.depth, self._device)

    def attribute(self, prompt: str, image: Picture) -> float:
        """BLIP-VQA: whether every noun phrase of the prompt is there, 0..1."""
        questions = [f"{phrase}?" for phrase in self.language.noun_phrases(prompt)[:MAX_PHRASES]]
        return phrases_score(self._vqa.p_yes(image, questions), self.mode)

    def spatial(self, prompt: str, image: Picture) -> float:
        """2D relation of the first and last noun, 0..1."""
        return self._relation(prompt, image, self.language.objects(prompt))

    def complex_spatial(self, prompt: str, image: Picture) -> float:
        """2D relation of the nouns around the preposition of a complex prompt, 0..1."""
        return self._relation(prompt, image, self.language.complex_objects(prompt))

    def _relation(self, prompt: str, image: Picture, objects: tuple[str, str] | None) -> float:
        detections = self._detector.detect(image, objects) if objects else []
        return score_2d(relation_of(prompt, RELATIONS_2D), objects, detections, self.mode)

    def depth(self, prompt: str, image: Picture) -> float:
        """3D relation of the first and last noun, 0..1."""
        objects = self.language.objects(prompt)
        if objects is None:
            return 0.0
        detections = self._detector.detect(image, objects)
        return score_3d(relation_of(prompt, RELATIONS_3D), objects, detections, self._depth.nearness(image), self.mode)

    def counts(self, prompt: str, image: Picture) -> float:
        """Whether things are there as often as the prompt says, 0..1; 0 for a prompt that counts nothing."""
        wanted = self.language.counted(prompt, self.mode)
        return score_counts(wanted, self._detector.detect(image, [name for _, name in wanted])) if wanted else 0.0

    def clip(self, prompt: str, image: Picture) -> float:
        """CLIPScore: the cosine of image and prompt."""
        return self._clip.cosine(image, prompt)

    def complex_clip(self, prompt: str, image: Picture) -> float:
        """CLIPScore of a complex prompt, without its adjectives."""
        return self._clip.cosine(image, self.language.without_adjectives(prompt))


Metric = Callable[[Metrics, str, Picture], float]

# The folder in which the benchmark's tool leaves vqa_result.json, and the metric that it computes.
METRICS: dict[str, tuple[tuple[str, Metric], ...]] = {
    **dict.fromkeys(("color", "shape", "texture"), (("annotation_blip", Metrics.attribute),)),
    "spatial": (("labels/annotation_obj_detection_2d", Metrics.spatial),),
    "3d_spatial": (("labels/annotation_obj_detection_3d", Metrics.depth),),
    "numeracy": (("annotation_num", Metrics.counts),),
    "non_spatial": (("annotation_clip", Metrics.clip),),
    "complex": (
        ("annotation_blip", Metrics.attribute),
        ("annotation_obj_detection", Metrics.complex_spatial),
        ("annotation_clip", Metrics.complex_clip),
    ),
}


# The settings of judge.t2i_compbench whose checkpoints a category's metrics load.
_CHECKPOINTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("color", "shape", "texture"), ("vqa",)),
    "spatial": ("detector",),
    "3d_spatial": ("detector", "depth"),
    "numeracy": ("detector",),
    "non_spatial": ("clip",),
    "complex": ("vqa", "detector", "clip"),
}


def check_metrics(settings: CompBenchConfig, categories: Sequence[str], *, clip_score: bool = False) -> None:
    """That what the categories' metrics need can be had, before hours of drawing; no weights are read.

    Raises: ConfigError for spaCy's pipeline, CheckpointError for a checkpoint.
    """
    Language(settings.spacy)
    names = [name for category in categories for name in _CHECKPOINTS[category]] + ["clip"] * clip_score
    for name in dict.fromkeys(names):
        check_checkpoint(f"judge.t2i_compbench.{name}", getattr(settings, name))


def combined(prompts: Sequence[str], parts: Sequence[Sequence[float]]) -> list[float]:
    """Complex scores from attribute, spatial and action scores, image by image."""
    return [
        three_in_one(complex_kind(prompt), attribute, spatial, action)
        for prompt, attribute, spatial, action in zip(prompts, *parts, strict=True)
    ]
