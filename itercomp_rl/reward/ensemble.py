"""Several aspects' reward models scored on the same images; frozen lower vision blocks that all share run once."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from itercomp_rl.reward.scorer import Scorer, TextTokens
from itercomp_rl.store.image_loader import View


class RewardEnsemble(nn.Module):
    """The reward models of several aspects on one device, scored on the same images.

    Models trained with frozen lower blocks share them: where the stem and the first blocks are frozen and
    bit-identical in all, they run once. Rewards stay bit-equal to separate calls, image gradients equal to rounding.
    Example: RewardEnsemble({"attribute": a, "spatial": b}).score(image, {"attribute": a.tokenize(prompts), ...})
    """

    def __init__(self, models: Mapping[str, Scorer]) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble needs the reward model of one aspect or more")
        self.models = nn.ModuleDict(models)
        self._measured: tuple[object, int] = (None, 0)

    @property
    def aspects(self) -> tuple[str, ...]:
        """Names of the models, in the order given."""
        return tuple(self.models)

    def model(self, aspect: str) -> Scorer:
        """One aspect's model. Raises: ValueError for an aspect the ensemble does not hold."""
        if aspect not in self.models:
            raise ValueError(f"aspect is {aspect!r}: this ensemble holds {list(self.models)}")
        return cast(Scorer, self.models[aspect])

    @property
    def view(self) -> View | None:
        """How the models take images; None where they do not all take them in the same way."""
        views = {model.view.name: model.view for model in map(self.model, self.aspects)}
        return views.popitem()[1] if len(views) == 1 else None

    @property
    def num_shared_blocks(self) -> int:
        """Vision blocks run once for all; measured anew after any vision weight was moved, written or (un)frozen."""
        models = [self.model(aspect) for aspect in self.aspects]
        parts = [part for model in models for part in (model.stem, *model.blocks)]
        weights = [p for part in parts for p in part.parameters()]
        state = tuple((p.data_ptr(), p._version, p.requires_grad) for p in weights)
        if self._measured[0] != state:
            self._measured = (state, _count_shared_blocks(models))
        return self._measured[1]

    def tokenize(self, prompts: Sequence[str]) -> dict[str, TextTokens]:
        """Every aspect's own tokens of the same prompts."""
        return {aspect: self.model(aspect).tokenize(prompts) for aspect in self.aspects}

    def score(self, image_B3HW: Tensor, texts: Mapping[str, TextTokens]) -> dict[str, Tensor]:
        """Standardised rewards [B] of images in 0..1 by every aspect in `texts`; as `Scorer.score`."""
        models = {aspect: self.model(aspect) for aspect in texts}
        shared = self.num_shared_blocks
        if not shared or len(texts) < 2:
            return {aspect: model.score(image_B3HW, *texts[aspect]) for aspect, model in models.items()}
        for model in models.values():
            model.require_eval()
        any_model = next(iter(models.values()))
        prefix_BND = any_model.vision_prefix(any_model.preprocess(image_B3HW), shared)
        rewards = {}
        for aspect, model in models.items():
            raw = model.score_tokens(model.vision_suffix(prefix_BND, shared), *texts[aspect])
            rewards[aspect] = model.standardise(raw)
        return rewards


def _count_shared_blocks(models: Sequence[Scorer]) -> int:
    first, *others = models
    if any(first.vision_recipe != other.vision_recipe for other in others):
        return 0
    if not _is_same_frozen([model.stem for model in models]):
        return 0
    num_shared = 0
    for blocks in zip(*(model.blocks for model in models), strict=False):
        if not _is_same_frozen(blocks):
            break
        num_shared += 1
    return num_shared


def _is_same_frozen(modules: Sequence[nn.Module]) -> bool:
    first, *others = [list(module.parameters()) for module in modules]
    if any(p.requires_grad for p in first):
        return False
    return all(
        not b.requires_grad and a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
        for other in others
        for a, b in zip(first, other, strict=True)
    )
