"""The report's pictures: the same prompts and seeds after each round, winners and losers, the worst regressions."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.items import ImageRef, ModelRef, Prompt
from itercomp_rl.plan import Plan
from itercomp_rl.prompts import prompts_to_show
from itercomp_rl.ranking.records import Judged, load_rankings
from itercomp_rl.reward.published import load_ensemble, score_images
from itercomp_rl.store import weights
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import EVALUATIONS, GRADES, RANKINGS, reward_role
from itercomp_rl.store.store import Store

T = TypeVar("T")

LEAST_LOSS = 0.01  # a smaller one is not called a regression
SIDE_PX = 256  # larger images are shown at this size: a report stays small enough to send


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as the page needs it: a data URI, its size, words for those who do not see it, lines below it."""

    src: str
    side: int
    alt: str
    title: str
    lines: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Pictures that belong together: one prompt."""

    prompt: str
    note: str
    pictures: list[Picture]


def picture(pixels: NDArray[np.uint8], alt: str, title: str, lines: Sequence[str]) -> Picture:
    """A Picture of pixels [H, W, 3]: small ones bit for bit as PNG, large ones scaled down as WebP."""
    image = Image.fromarray(pixels)
    is_small = max(image.size) <= 64
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if is_small else "WEBP", **({"optimize": True} if is_small else {"quality": 80}))
    kind = "png" if is_small else "webp"
    src = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(src=src, side=max(image.size), alt=alt, title=title, lines=list(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutImage:
    """One held-out image of a model, where it lies and how it was graded."""

    prompt: Prompt
    seed: int
    segment: str
    row: int
    grades: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean score over the prompt's aspects."""
        return float(np.mean(list(self.grades.values())))


class HeldOutImages:
    """The held-out images of a run, model by model; every model drew the same prompts with the same seeds.

    Segments that not every model has (a run under way, prompts that were skipped) are left out.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store, self._plan = store, plan
        policies = (plan.policy(round_) for round_ in range(-1, plan.rounds))
        graded = {model: self._graded(model) for model in policies}
        self.models = [model for model, segments in graded.items() if segments]
        self._segments = set.intersection(*(graded[model] for model in self.models)) if self.models else set()
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def _graded(self, model: ModelRef) -> set[int]:
        orders = self._plan.evaluation_orders(model)
        return {number for number, order in enumerate(orders) if self._store.has(GRADES, order.id)}

    def drawn(self, model: ModelRef) -> list[HeldOutImage]:
        """Every image of a model with its grades."""
        found = []
        for number, order in enumerate(self._plan.evaluation_orders(model)):
            if number not in self._segments:
                continue
            rows = self._store.get(GRADES, order.id).attrs["rows"]
            for i, (prompt, seed, row) in enumerate(zip(order.prompts, order.seeds, rows, strict=True)):
                grades = {aspect: float(grade[0]) for aspect, grade in row["grades"].items()}
                found.append(HeldOutImage(prompt=prompt, seed=seed, segment=order.id, row=i, grades=grades))
        return found

    def picture(self, model: ModelRef, one: HeldOutImage) -> Picture:
        """The image itself."""
        if one.segment not in self._kept:
            if len(self._kept) > 8:
                self._kept.clear()
            self._kept[one.segment] = self._store.get(EVALUATIONS, one.segment).arrays["images"]
        title = title_of(model)
        lines = [f"{aspect.replace('_', '-')} {grade:.2f}" for aspect, grade in one.grades.items()]
        return picture(self._kept[one.segment][one.row], f"{title}: {one.prompt.text}", title, lines)


def title_of(model: ModelRef) -> str:
    """`base`, or `round 2` for the policy that the second round published."""
    return "base" if model.version is None else f"round {model.version + 1}"


def before_and_after(held: HeldOutImages, num: int) -> list[Row]:
    """`num` held-out prompts of every kind, drawn from one seed each by the base and after every round."""
    columns = [held.drawn(model) for model in held.models]
    if not columns or not columns[0]:
        return []
    return [
        Row(
            prompt=columns[0][i].prompt.text,
            note=f"seed {columns[0][i].seed}",
            pictures=[held.picture(model, column[i]) for model, column in zip(held.models, columns, strict=True)],
        )
        for i in prompts_to_show([one.prompt for one in columns[0]], num)
    ]


def worst_regressions(held: HeldOutImages, num: int) -> list[Row]:
    """The prompts, each once, whose image lost most between the base and the last round, and LEAST_LOSS at least."""
    if len(held.models) < 2:
        return []
    base, last = held.models[0], held.models[-1]
    pairs = sorted(zip(held.drawn(base), held.drawn(last), strict=True), key=lambda pair: pair[1].mean - pair[0].mean)
    rows, seen = [], set()
    for before, after in pairs:
        if before.mean - after.mean < LEAST_LOSS or len(rows) == num:
            break
        if before.prompt.id not in seen:
            seen.add(before.prompt.id)
            note = f"mean over its aspects {before.mean:.2f} → {after.mean:.2f}, seed {before.seed}"
            shown = [held.picture(base, before), held.picture(last, after)]
            rows.append(Row(prompt=before.prompt.text, note=note, pictures=shown))
    return rows


def spread(entries: Sequence[T], num: int) -> list[T]:
    """At most `num` entries, evenly spread from the first to the last."""
    return [entries[int(i)] for i in np.linspace(0, len(entries) - 1, min(num, len(entries))).round()]


def winners_and_losers(store: Store, plan: Plan, num: int) -> tuple[int, dict[str, list[Row]]]:
    """Per aspect, the best and the worst gallery image of `num` prompts in the last ranked round, and that round.

    Rewards are of that round's reward models (standardised); before they are published there are none.
    """
    rounds = [r for r in range(plan.rounds) if any(store.has(RANKINGS, id_) for id_ in plan.rankings(r))]
    if not rounds:
        return 0, {}
    round_ = rounds[-1]
    ranked = [entry for id_ in plan.rankings(round_) if store.has(RANKINGS, id_) for entry in load_rankings(store, id_)]
    reader = ImageReader(store)
    found = {}
    for aspect in plan.config.prompts.aspects:
        useful = [entry for entry in ranked if aspect in entry[2] and len(entry[2][aspect].ranking.places) > 1]
        if useful:
            found[aspect] = _extremes(store, plan, round_, aspect, spread(useful, num), reader)
    return round_, found


def _extremes(
    store: Store,
    plan: Plan,
    round_: int,
    aspect: str,
    chosen: Sequence[tuple[Prompt, Mapping[str, ImageRef], Mapping[str, Judged]]],
    reader: ImageReader,
) -> list[Row]:
    refs, texts, ends = [], [], []
    for prompt, images, rankings in chosen:
        places = rankings[aspect].ranking.places
        winner, loser = str(places[0][0]), str(places[-1][-1])
        ends += [winner, loser]
        refs += [images[winner], images[loser]]
        texts += [prompt.text] * 2
    pixels = [reader.load([ref])[0] for ref in refs]
    rewards = _rewards(store, plan, round_, aspect, pixels, texts)
    rows = []
    for i, (prompt, _, rankings) in enumerate(chosen):
        shown: list[Picture] = []
        for at, word in ((2 * i, "winner"), (2 * i + 1, "loser")):
            lines = [ends[at]]
            if rewards is not None:
                lines.append(f"reward {rewards[at]:+.2f}")
            if ends[at] in rankings[aspect].scores:
                lines.append(f"judge {rankings[aspect].scores[ends[at]]:.2f}")
            shown.append(picture(pixels[at], f"{word}, by {ends[at]}: {prompt.text}", word, lines))
        wrong = rewards is not None and rewards[2 * i] < rewards[2 * i + 1]
        note = "the reward model prefers the loser" if wrong else ""
        rows.append(Row(prompt=prompt.text, note=note, pictures=shown))
    return rows


def _rewards(
    store: Store, plan: Plan, round_: int, aspect: str, pixels: Sequence[NDArray[Any]], texts: Sequence[str]
) -> list[float] | None:
    versions = [v for v in weights.versions(store, reward_role(aspect)) if v <= round_]
    if not versions:
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ensemble = load_ensemble(store, plan.config.reward.trunk, {aspect: versions[-1]}, device)
    found: list[float] = []
    # Gallery models may draw in different sizes; a batch needs one.
    for _, group in groupby(range(len(pixels)), key=lambda i: pixels[i].shape):
        rows = list(group)
        part = score_images(ensemble, np.stack([pixels[i] for i in rows]), [texts[i] for i in rows], batch=8)
        found += [float(value) for value in part[aspect]]
    return found
