"""Step 3 of a prompt's road: a judge ranks the images of each prompt, and grades images of evaluations and probes."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.judging_sources import for_evaluation
from itercomp_rl.config.rules.judging import SCORERS
from itercomp_rl.config.schema import Config
from itercomp_rl.items import ImageRef, ProbeOrder, Prompt, RankOrder
from itercomp_rl.judges.choice import open_judge, open_scorer
from itercomp_rl.judges.probe import ProbeGrader
from itercomp_rl.judges.reward import RewardScorer, place_newcomers
from itercomp_rl.judges.scoring import GroupJudge, ImageScorer, score_aspects
from itercomp_rl.ranking.ranking import PlacingRule
from itercomp_rl.ranking.records import Judged, load_rankings, prompt_of, rankings_attrs
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.published import load_ensemble, score_any_size
from itercomp_rl.shapes.oracle import off_palette
from itercomp_rl.store.image_loader import ImageLoader
from itercomp_rl.store.kinds import EVALUATIONS, GRADES, PROBE_GRADES, PROBES, RANKINGS, reward_role
from itercomp_rl.store.store import Record, Store
from itercomp_rl.store.weights import open_version


class Judge:
    """Ranks afresh by the configured judge, or places newcomers by reward models, whichever an order asks for."""

    def __init__(self, store: Store, config: Config, device: torch.device, images: ImageLoader | None = None) -> None:
        """images: what reads the gallery's images; None: a loader of this judge's own, which keeps none."""
        self._store, self._config, self._device = store, config, device
        self._aspects = config.prompts.aspects
        self._images = images or ImageLoader(store)
        self._version: int | None = None  # of the reward models held
        self._ensemble: RewardEnsemble | None = None
        self._judges: dict[str, GroupJudge] = {}
        self._scorers: dict[str, ImageScorer] = {}
        self._grader: ImageScorer | None = None
        self._metrics: RewardScorer | None = None
        self._probes = ProbeGrader(store, config.reward.trunk, self._aspects, device)

    def rank(self, order: RankOrder) -> None:
        """Commit one ranking per prompt and aspect."""
        if not self._store.has(RANKINGS, order.id):
            order = replace(order, images=tuple(self._drawn(refs) for refs in order.images))
            rankings = self._fresh(order) if order.earlier is None else self._placed(order, order.earlier)
            self._store.put(RANKINGS, order.id, {}, rankings_attrs(order, rankings))

    def grade(self, segment: str) -> None:
        """Commit the grades of an evaluations segment: score and pass on what each prompt is about, also odd pixels.

        Pixels of no colour of the world are counted where the oracle grades; evaluation.metrics score every image.
        """
        if self._store.has(GRADES, segment):
            return
        record = self._store.get(EVALUATIONS, segment)
        prompts, rows = _prompts_and_drawn_rows(record)
        images = record.arrays["images"][rows]
        kind = self._config.evaluation.judge
        grades: list[dict[str, Any]] = [{"prompt": prompt.id, "grades": {}} for prompt in prompts]
        own = [prompts[row] for row in rows]
        scored = score_aspects(self._evaluator(), own, list(images), self._aspects) if rows else []
        for row, scores, image in zip(rows, scored, images, strict=True):
            grades[row]["grades"] = {aspect: [score.value, score.passed] for aspect, score in scores.items()}
            if kind == "oracle":
                grades[row]["off_palette"] = off_palette(image)
        if self._config.evaluation.metrics:
            measured = self._measured([prompts[row] for row in rows], list(images))
            for row, scores in zip(rows, measured, strict=True):
                grades[row]["metrics"] = scores
        self._store.put(GRADES, segment, {}, {"model": record.attrs["model"], "rows": grades})

    def grade_probe(self, order: ProbeOrder) -> None:
        """Commit what the evaluation's judge and the reward models say of a probe's images."""
        if self._store.has(PROBE_GRADES, order.id):
            return
        record = self._store.get(PROBES, order.id)
        prompts, rows = _prompts_and_drawn_rows(record)
        images = list(record.arrays["images"][rows])
        attrs = self._probes.grade(order, [prompts[row] for row in rows], images, self._evaluator())
        self._store.put(PROBE_GRADES, order.id, {}, attrs)

    def unload(self) -> None:
        """Free every model in this process; the next order loads what it needs. An endpoint's scorer stays."""
        self._version = self._ensemble = self._metrics = None
        self._probes.unload()
        has_endpoint = self._config.judge.vlm.url is not None
        kept = {kind: scorer for kind, scorer in self._scorers.items() if kind == "vlm" and has_endpoint}
        self._judges = {kind: judge for kind, judge in self._judges.items() if kind in kept or kind not in SCORERS}
        self._scorers = kept
        if not (self._config.evaluation.judge == "vlm" and has_endpoint):
            self._grader = None

    def _evaluator(self) -> ImageScorer:
        """The scorer that grades: the one that ranks if it has its name, unless evaluation has models of its own."""
        config = for_evaluation(self._config)
        if config == self._config:
            return self._scorer(config.evaluation.judge)
        if self._grader is None:
            self._grader = open_scorer(config.evaluation.judge, config, self._device, self._store)
        return self._grader

    def _measured(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, float]]:
        """Score images [H, W, 3] by every one of evaluation.metrics, whatever aspects their prompts have."""
        sources = self._config.evaluation.metrics
        if self._metrics is None:
            self._metrics = RewardScorer(sources, self._device)
        about_all = [replace(prompt, aspects=tuple(sources)) for prompt in prompts]
        return [{name: one.value for name, one in found.items()} for found in self._metrics.score(about_all, images)]

    def _drawn(self, refs: Mapping[str, ImageRef]) -> dict[str, ImageRef]:
        """The images that are there: a prompt that no sampler survived has none of that model."""
        return {model: ref for model, ref in refs.items() if self._images.is_drawn(ref)}

    def _fresh(self, order: RankOrder) -> list[dict[str, Judged]]:
        kind = self._config.judge.first_round if order.round == 0 else self._config.judge.later_rounds
        if kind not in self._judges:
            self._judges[kind] = open_judge(kind, self._config, self._scorer)
        judge, found = self._judges[kind], list[dict[str, Judged]]()
        drawn = self._images.stream([list(refs.values()) for refs in order.images])
        with closing(drawn):
            for start in range(0, len(order.prompts), judge.num_prompts):
                some = slice(start, start + judge.num_prompts)
                images = [dict(zip(refs, next(drawn), strict=True)) for refs in order.images[some]]
                for judged in judge.judge_all(order.prompts[some], images):
                    found.append({aspect: ranking for aspect, ranking in judged.items() if aspect in self._aspects})
        return found

    def _scorer(self, kind: str) -> ImageScorer:
        """The scorer of a name that ranks, loaded once."""
        if kind not in self._scorers:
            self._scorers[kind] = open_scorer(kind, self._config, self._device, self._store)
        return self._scorers[kind]

    def _placed(self, order: RankOrder, earlier: str) -> list[dict[str, Judged]]:
        """The earlier rankings with the newcomers in them.

        A reward model that is no better than chance places nobody: its aspect's rankings stay as they were.
        """
        assert order.reward_version is not None
        if self._version != order.reward_version:
            versions = dict.fromkeys(self._trusted(order.reward_version), order.reward_version)
            trunk = self._config.reward.trunk
            self._ensemble = load_ensemble(self._store, trunk, versions, self._device) if versions else None
            self._version = order.reward_version
        rule: PlacingRule = self._config.judge.rule  # type: ignore[assignment]  # checked with the config
        found = []
        view = self._ensemble.view if self._ensemble else None
        asked = [list(refs.values()) if self._ensemble else [] for refs in order.images]
        entries = zip(load_rankings(self._store, earlier), order.images, self._images.stream(asked, view), strict=True)
        for (prompt, _, rankings), refs, images in entries:
            texts = [prompt.text] * len(images)
            scores = score_any_size(self._ensemble, images, texts) if self._ensemble else [{} for _ in refs]
            newcomers = [model for model in order.newcomers if model in refs]
            placed = {}
            for aspect, judged in rankings.items():
                own = {model: by[aspect] for model, by in zip(refs, scores, strict=True) if aspect in by}
                ranking = place_newcomers(judged.ranking, own, newcomers, rule) if own else judged.ranking
                placed[aspect] = Judged(ranking=ranking, scores=judged.scores)
            found.append(placed)
        return found

    def _trusted(self, version: int) -> list[str]:
        """Aspects whose reward model is good enough to learn from, and so to place newcomers."""
        published = {aspect: open_version(self._store, reward_role(aspect), version) for aspect in self._aspects}
        least = self._config.reward.min_accuracy
        return [aspect for aspect, model in published.items() if model.attrs["report"]["accuracy"] >= least]


def _prompts_and_drawn_rows(record: Record) -> tuple[list[Prompt], list[int]]:
    """The prompts of a segment of images, and the rows whose prompt did not crash every sampler."""
    prompts = [prompt_of(tree) for tree in record.attrs["prompts"]]
    aside = set(record.attrs.get("set_aside", ()))
    return prompts, [row for row in range(len(prompts)) if row not in aside]
