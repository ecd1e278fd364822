"""Reward models as runs publish and configs name them: loading them, and scoring images with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.scorer_names import HTTP, PYTHON, parse_scorer
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import RewardReport
from itercomp_rl.reward.checkpoint import AnyReward, load_official, load_reward, official_tokenizer
from itercomp_rl.reward.clip_checkpoint import CLIP_KINDS, load_clip_reward
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.store.kinds import reward_role
from itercomp_rl.store.store import Store
from itercomp_rl.store.weights import Version, open_version

SCORING_BATCH = 64  # images of one forward pass


def load_ensemble(store: Store, trunk: str, versions: Mapping[str, int], device: torch.device) -> RewardEnsemble:
    """The published reward models of some aspects, frozen, in evaluation mode; the trunk gives their architecture."""
    models = {}
    for aspect, version in versions.items():
        published = open_version(store, reward_role(aspect), version)
        models[aspect] = load_reward_version(trunk, published).to(device)
    return RewardEnsemble(models)


def load_reported(
    store: Store, trunk: str, reports: Mapping[str, RewardReport], device: torch.device
) -> RewardEnsemble:
    """As `load_ensemble`, of reports: a model may still learn, and be published under a live role."""
    models = {}
    for aspect, report in reports.items():
        version = open_version(store, report.live_role or reward_role(aspect), report.version)
        models[aspect] = load_reward_version(trunk, version).to(device)
    return RewardEnsemble(models)


def load_reward_version(trunk: str, version: Version) -> AnyReward:
    """One published reward model on the CPU in fp32, frozen, in evaluation mode."""
    model = load_any_reward(trunk)
    model.load_state_dict(version.load())
    return model.eval().requires_grad_(False)


@torch.no_grad()
def score_images(
    ensemble: RewardEnsemble, images: NDArray[np.uint8], prompts: Sequence[str], batch: int = SCORING_BATCH
) -> dict[str, NDArray[np.float32]]:
    """Standardised rewards [N] per aspect of images [N, H, W, 3]."""
    device = ensemble.model(ensemble.aspects[0]).reward_mean.device
    parts: dict[str, list[NDArray[np.float32]]] = {aspect: [] for aspect in ensemble.aspects}
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(images[start : start + batch]).to(device).permute(0, 3, 1, 2).float() / 255
        for aspect, score in ensemble.score(pixels, ensemble.tokenize(prompts[start : start + batch])).items():
            parts[aspect].append(score.cpu().numpy())
    return {aspect: np.concatenate(found) for aspect, found in parts.items()}


def score_any_size(
    ensemble: RewardEnsemble, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]
) -> list[dict[str, float]]:
    """Standardised rewards by aspect of each image [H, W, 3]; a gallery's models draw at sizes of their own.

    Images are brought to the models' size as bytes, so a score is the same from an image that was kept at that size.
    """
    if view := ensemble.view:
        images = [view(image) for image in images]
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        rows_of.setdefault(image.shape, []).append(i)
    found: list[dict[str, float]] = [{} for _ in images]
    for rows in rows_of.values():
        scores = score_images(ensemble, np.stack([images[i] for i in rows]), [prompts[i] for i in rows])
        for aspect, values in scores.items():
            for i, value in zip(rows, values.tolist(), strict=True):
                found[i][aspect] = value
    return found


def load_any_reward(source: str) -> AnyReward:
    """A reward model by any name that `scorer_names` lists, but for classes and addresses.

    Raises: CheckpointError if it, or its tokenizer, cannot be had; ConfigError for a class or an address.
    """
    name = parse_scorer(source)
    if name.kind in CLIP_KINDS:
        return load_clip_reward(name)
    if name.kind in (PYTHON, HTTP):
        raise ConfigError(f"{source} has no weights to learn: give a reward model, or take it as a judge")
    path = Path(checkpoint_path(name.checkpoint))
    if path.is_dir():
        return load_reward(path).float()
    return load_official(name.checkpoint, tokenizer=official_tokenizer(name.checkpoint))
