"""Step 3 of a prompt's road: a judge ranks the images of each prompt, and grades held-out images of evaluations."""

import torch

from itercomp_rl.items import RankOrder
from itercomp_rl.judges import oracle
from itercomp_rl.judges.reward import load_ensemble, place_newcomers, score_images
from itercomp_rl.ranking import PlacingRule, Ranking, rank_by_score
from itercomp_rl.records import ImageReader, Judged, load_rankings, prompt_of, rankings_attrs
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.schema import JudgeConfig
from itercomp_rl.shapes.oracle import off_palette
from itercomp_rl.store.store import Store


class Judge:
    """Ranks afresh by the oracle, or places newcomers by reward models, whichever an order asks for."""

    def __init__(
        self, store: Store, settings: JudgeConfig, trunk: str, aspects: list[str], device: torch.device
    ) -> None:
        self._store, self._settings, self._trunk, self._device = store, settings, trunk, device
        self._aspects = aspects
        self._images = ImageReader(store)
        self._ensemble: tuple[int, RewardEnsemble] | None = None

    def rank(self, order: RankOrder) -> None:
        """Commit one ranking per prompt and aspect."""
        if not self._store.has("rankings", order.id):
            rankings = self._fresh(order) if order.earlier is None else self._placed(order, order.earlier)
            self._store.put("rankings", order.id, {}, rankings_attrs(order, rankings))

    def grade(self, segment: str) -> None:
        """Commit the oracle's grades of an evaluations segment: score and pass per aspect, share of odd pixels."""
        if self._store.has("grades", segment):
            return
        record = self._store.get("evaluations", segment)
        prompts = [prompt_of(tree) for tree in record.attrs["prompts"]]
        found = oracle.grades(record.arrays["images"], prompts)
        rows = [
            {
                "prompt": prompt.id,
                "grades": {aspect: [grade.score, grade.passed] for aspect, grade in grades.items()},
                "off_palette": off_palette(image),
            }
            for prompt, grades, image in zip(prompts, found, record.arrays["images"], strict=True)
        ]
        self._store.put("grades", segment, {}, {"model": record.attrs["model"], "rows": rows})

    def _fresh(self, order: RankOrder) -> list[dict[str, Judged]]:
        found = []
        for prompt, images in zip(order.prompts, order.images, strict=True):
            pixels = self._images.load(list(images.values()))
            grades = oracle.grades(pixels, [prompt] * len(images))
            found.append(
                {
                    aspect: _judged(
                        prompt.id, aspect, {m: g[aspect].score for m, g in zip(images, grades, strict=True)}
                    )
                    for aspect in prompt.aspects
                    if aspect in self._aspects
                }
            )
        return found

    def _placed(self, order: RankOrder, earlier: str) -> list[dict[str, Judged]]:
        assert order.reward_version is not None
        if self._ensemble is None or self._ensemble[0] != order.reward_version:
            versions = dict.fromkeys(self._aspects, order.reward_version)
            self._ensemble = (order.reward_version, load_ensemble(self._store, self._trunk, versions, self._device))
        rule: PlacingRule = self._settings.rule  # type: ignore[assignment]  # checked with the config
        found = []
        for (prompt, _, rankings), images in zip(load_rankings(self._store, earlier), order.images, strict=True):
            pixels = self._images.load(list(images.values()))
            scores = score_images(self._ensemble[1], pixels, [prompt.text] * len(images))
            found.append(
                {
                    aspect: Judged(
                        ranking=place_newcomers(
                            judged.ranking,
                            dict(zip(images, map(float, scores[aspect]), strict=True)),
                            order.newcomers,
                            rule,
                        ),
                        scores=judged.scores,
                    )
                    for aspect, judged in rankings.items()
                }
            )
        return found


def _judged(prompt_id: str, aspect: str, scores: dict[str, float]) -> Judged:
    return Judged(ranking=Ranking(prompt_id=prompt_id, aspect=aspect, places=rank_by_score(scores)), scores=scores)
