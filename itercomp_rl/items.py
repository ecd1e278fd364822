"""The things that flow: prompts, orders for work, and what comes back. Plain data, small enough to send anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ASPECTS = ("attribute", "spatial", "non_spatial")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Prompt(id="4f1c…", text="a red circle left of a blue square", aspects=("attribute", "spatial"))."""

    id: str
    text: str
    aspects: tuple[str, ...] = ASPECTS


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model that draws: where its checkpoint lies, which published weights replace it, and how it draws.

    ModelRef(name="policy-2", checkpoint="embedded:base", role="policy", version=2, num_steps=10, guidance=1.0)
    """

    name: str
    checkpoint: str
    role: str | None = None  # weights/<role> in the store, on top of the checkpoint
    version: int | None = None
    num_steps: int
    guidance: float = 1.0
    system: str = "text"  # how it draws: a key of gallery.SYSTEMS
    planner: str | None = None  # a key of gallery.planners, for systems that draw by plan
    base_ratio: float = 0.5  # rpg: share of the whole prompt in every region
    pooled: str = "last_region"  # rpg: which prompt the pooled embedding is of: last_region | base
    attention_scale: float = 5.0  # lmd: how hard words are pulled into their boxes
    reference_weight: float = 2.0  # lmd: of looking as when each object is drawn alone
    grounding: str | None = None  # instance_diffusion: where its layers lie
    scheduler: str | None = None  # what steps the denoiser; None: the family's deterministic one
    negative: str | None = None  # negative prompt
    size_px: int | None = None  # side of the image; None: the checkpoint's own
    dtype: str | None = None  # of the network; None: gallery.dtype
    endpoint: str | None = None  # endpoint: a key of gallery.endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawOrder:
    """One image per prompt and seed by one model, to be committed as segment `kind`/`id`."""

    kind: str  # "images" (gallery), "evaluations" or "probes"
    id: str
    round: int
    model: ModelRef
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    skipped: tuple[int, ...] = ()  # rows whose prompt crashes every sampler: they stay black, unranked, ungraded


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image in the store: row `row` of `segment`, a segment of images or, in a MeasureOrder, of evaluations."""

    segment: str
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOrder:
    """The denoising loss of `model` on held-out pictures, to be committed as losses/`id`.

    `source` is where the pictures come from, a key of evaluation.denoising.PICTURES; prompts, seeds and pictures are
    the same for every model that is measured.
    """

    id: str
    round: int
    model: ModelRef
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    source: str
    images: tuple[ImageRef, ...] = ()  # of any source but "shapes": rows of evaluations segments


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOrder:
    """Rank the images of some prompts, to be committed as rankings/`id`.

    `images` holds, for each prompt, every model's image. With `earlier`, the id of another rankings segment of the same
    prompts, only `newcomers` are placed, by reward models of version `reward_version`; else all are ranked afresh.
    """

    id: str
    round: int
    prompts: tuple[Prompt, ...]
    images: tuple[Mapping[str, ImageRef], ...]
    newcomers: tuple[str, ...] = ()
    earlier: str | None = None
    reward_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRef:
    """The judge, or a person, prefers image `winner` to image `loser` on one aspect of one prompt."""

    prompt: Prompt
    winner: ImageRef
    loser: ImageRef
    weight: float = 1.0  # how often it is learned from, against other pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOrder:
    """Learn one aspect's reward model from `rankings`' pairs; publish it as `reward-<aspect>` version `version`."""

    aspect: str
    round: int
    version: int
    start_version: int | None  # None = the trunk
    rankings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardReport:
    """How good a published reward model is, on pairs of prompts it never learned from."""

    aspect: str
    version: int
    accuracy: float
    num_pairs: int
    mean: float
    std: float
    weight: float  # what the policy loss multiplies it with; 0 = not trusted
    live_role: str | None = None  # store role of a version published while the model still learns, by its updates


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOrder:
    """Denoise without gradient under live policy `version` or newer: latents from `seeds`, each up to its mid steps.

    mid_steps holds, per gradient point, one step per image: ((3, 5), (7, 6)) for two points of two images, an image's
    steps rising from point to point.
    """

    index: int
    role: str  # store role of the live weights
    version: int
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    mid_steps: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Latents [P, B, C, H, W] float32 at each image's P mid steps; lives in Ray's object store for a second."""

    index: int
    version: int
    prompts: tuple[Prompt, ...]
    mid_steps: tuple[tuple[int, ...], ...]
    latents: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOrder:
    """Grade the images probes/`id`, which a round's moving average drew after `update` updates.

    They get the scores of the evaluation's judge, the rewards that the policy climbs in this round, and those of the
    reward models that stay the same for the whole run, so that rounds can be compared.
    """

    id: str
    round: int
    update: int
    rewards: Mapping[str, RewardReport]
    reference: Mapping[str, RewardReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOrder:
    """Learn the policy of one round, from `start_version` (None = the checkpoint), against published reward models."""

    round: int
    start_version: int | None
    live_role: str  # store role under which every update's weights are published for the rollers
    rewards: Mapping[str, RewardReport]
    rankings: tuple[str, ...]  # where the gallery images of the pre-training loss are listed
    pretraining_models: tuple[str, ...] | None = None  # whose images that loss may take; None: every model's
    total_updates: int | None = None  # of all rounds that go on from one another; None: of this round alone
    probes: tuple[int, ...] = ()  # updates after which the moving average is published, to be probed
    keeps_state: bool = False  # the next round goes on from the raw weights and moments that this one ends with
