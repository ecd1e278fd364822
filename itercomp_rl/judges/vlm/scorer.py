"""Scores of images by a vision-language model: the mean probability of yes over an aspect's own questions."""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from itercomp_rl.config.schema import VlmConfig
from itercomp_rl.errors import JudgeError, PlanError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.scoring import Score
from itercomp_rl.judges.vlm.answers import answer_id, checksum, keep_answer, load_answers
from itercomp_rl.judges.vlm.atoms import INSTRUCTION, Atom, atoms_by_rule, atoms_of_answer
from itercomp_rl.judges.vlm.endpoint import EndpointVlm
from itercomp_rl.judges.vlm.model import Asked, UnansweredError, Usage, Verdict, Vlm
from itercomp_rl.judges.vlm.questions import by_aspect, question_of
from itercomp_rl.store.kinds import ANSWERS, PLANS
from itercomp_rl.store.store import Store

log = logging.getLogger(__name__)

NUM_SILENT_PROMPTS = 5  # prompts in a row of which no question was answered: the model cannot judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question of one image, and what the model made of it."""

    aspect: str
    atom: Atom
    question: str
    verdict: Verdict


def open_vlm(settings: VlmConfig, device: torch.device, usage: Usage) -> Vlm:
    """The model behind judge.vlm.url, or loaded here. Raises: ConfigError, CheckpointError."""
    if settings.url is not None:
        return EndpointVlm(settings, usage)
    from itercomp_rl.judges.vlm.local import LocalVlm  # transformers' classes: only who loads one

    return LocalVlm(settings, usage, device)


def usage_of(settings: VlmConfig, store: Store, num_judges: int) -> Usage:
    """What one of `num_judges` processes may ask: its part of what the run has left of judge.vlm.max_requests.

    What the store holds counts as spent, so that a run that goes on keeps to the limit as a whole.
    """
    if settings.max_requests is None:
        return Usage()
    spent = len(store.ids(ANSWERS))
    left = max(0, settings.max_requests - spent)
    part = f"{settings.max_requests} for the run, {spent} of them before, the rest shared by {num_judges} judges"
    return Usage(max_requests=math.ceil(left / num_judges), limit=part)


class VlmScorer:
    """A vision-language model as an ImageScorer; an image passes if every statement of the aspect is likelier than not.

    An image of which not every question of an aspect was answered has no score there: it is left out and counted.
    """

    def __init__(self, settings: VlmConfig, aspects: Sequence[str], store: Store, vlm: Vlm) -> None:
        self._settings, self._aspects, self._store, self._vlm = settings, aspects, store, vlm
        self._atoms: dict[str, tuple[Atom, ...]] = {}  # by text
        self._silent: set[str] = set()  # ids of prompts since the last one that was answered

    def score(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Score]]:
        return [scores_of(answered) for answered in self.answers(prompts, images)]

    def answers(self, prompts: Sequence[Prompt], images: Sequence[NDArray[np.uint8]]) -> list[list[Answered]]:
        """Every question about each image under the prompt at its place, with its answer.

        Raises: JudgeError if the model answers no more, or never could.
        """
        began, before = time.monotonic(), (self._vlm.usage.tokens_in, self._vlm.usage.tokens_out)
        atoms = [by_aspect(self.atoms_of(prompt.text), self._about(prompt)) for prompt in prompts]
        rows = [
            [(aspect, atom, answer_id(sum_, question_of(atom), self._model)) for aspect in own for atom in own[aspect]]
            for own, sum_ in zip(atoms, map(checksum, images), strict=True)
        ]
        wanted = {
            id_: Asked(image=image, question=question_of(atom))
            for row, image in zip(rows, images, strict=True)
            for _, atom, id_ in row
        }
        known = load_answers(self._store, list(wanted), self._settings.max_tokens)
        new = {id_: asked for id_, asked in wanted.items() if id_ not in known}
        verdicts = known | self._asked(new)
        self._watch(prompts, rows, verdicts)
        if new:
            usage = self._vlm.usage
            log.info(
                "asked the vision-language model %d questions, %d more were in the store, %d could not be judged; "
                "%d tokens in, %d out; %.1f s",
                len(new),
                len(known),
                sum(verdicts[id_].p_yes is None for id_ in wanted),
                usage.tokens_in - before[0],
                usage.tokens_out - before[1],
                time.monotonic() - began,
            )
        return [
            [
                Answered(aspect=aspect, atom=atom, question=question_of(atom), verdict=verdicts[id_])
                for aspect, atom, id_ in row
            ]
            for row in rows
        ]

    def atoms_of(self, text: str) -> tuple[Atom, ...]:
        """A prompt's atoms, by rule or as the model lists them; by rule also where its list cannot be read."""
        if text not in self._atoms:
            self._atoms[text] = self._listed(text) if self._settings.atoms == "model" else atoms_by_rule(text)
        return self._atoms[text]

    @property
    def _model(self) -> str:
        assert self._settings.model, "the rules ask for a model"
        return self._settings.model

    def _about(self, prompt: Prompt) -> list[str]:
        return [aspect for aspect in prompt.aspects if aspect in self._aspects]

    def _listed(self, text: str) -> tuple[Atom, ...]:
        id_ = answer_id("", f"{INSTRUCTION}\n{text}", self._model)
        try:
            if self._store.has(PLANS, id_):
                return atoms_of_answer(self._store.get(PLANS, id_, []).attrs["answer"])
            answer = self._vlm.tell(INSTRUCTION, text)
            atoms_of_answer(answer)  # only an answer that can be read is kept
        except (PlanError, UnansweredError) as error:
            log.warning("the model's atoms are not used, but those by rule: %s (prompt %.60r)", error, text)
            return atoms_by_rule(text)
        attrs = {"planner": "judge.vlm", "model": self._model, "form": "atoms", "prompt": text, "answer": answer}
        return atoms_of_answer(self._store.put(PLANS, id_, {}, attrs).attrs["answer"])

    def _asked(self, new: Mapping[str, Asked]) -> dict[str, Verdict]:
        """Answers to what the store does not know, each kept there as it comes: an error leaves those before it."""
        found: dict[str, Verdict] = {}
        for (id_, asked), verdict in zip(new.items(), self._vlm.ask(list(new.values())), strict=True):
            keep_answer(self._store, id_, asked, self._model, verdict, self._settings.max_tokens)
            found[id_] = verdict
        return found

    def _watch(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[Sequence[tuple[str, Atom, str]]],
        verdicts: Mapping[str, Verdict],
    ) -> None:
        """Raises: JudgeError if no question of the last prompts was answered: then it is not the prompts."""
        reasons = Counter[str]()
        for prompt, row in zip(prompts, rows, strict=True):
            asked = [verdicts[id_] for _, _, id_ in row]
            if any(verdict.p_yes is not None for verdict in asked):
                self._silent.clear()
            elif asked:
                self._silent.add(prompt.id)
                reasons.update(verdict.text for verdict in asked)
        if not reasons:
            return
        [(reason, _)] = reasons.most_common(1)
        log.warning("%d questions could not be judged, most often: %s", reasons.total(), reason)
        if len(self._silent) >= NUM_SILENT_PROMPTS:
            raise JudgeError(
                f"judge.vlm.model is {self._model!r}: none of the last {len(self._silent)} prompts was answered, "
                f"most often for the reason: {reason}. Try it with `itercomp judge`, and change "
                "judge.vlm"
            )


def scores_of(answered: Sequence[Answered]) -> dict[str, Score]:
    """The scores of one image by aspect; an aspect of which a question was not answered is left out."""
    found = {}
    for aspect in dict.fromkeys(one.aspect for one in answered):
        p = [one.verdict.p_yes for one in answered if one.aspect == aspect]
        known = [value for value in p if value is not None]
        if len(known) == len(p):
            found[aspect] = Score(value=math.fsum(known) / len(known), passed=min(known) >= 0.5)
    return found
