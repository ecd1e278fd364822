"""From prompts to plans, by whichever planner a gallery member names; what it cannot plan is planned by rule, aloud."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from itercomp_rl.config.schema import PlannerConfig
from itercomp_rl.errors import ConfigError, PlanError, PlannerError
from itercomp_rl.gallery.planning import rule
from itercomp_rl.gallery.planning.canvas import Canvas, parse_canvas
from itercomp_rl.gallery.planning.endpoint import EndpointChat, PromptRefusedError
from itercomp_rl.gallery.planning.instructions import CANVAS, LAYOUT, REGIONS
from itercomp_rl.gallery.planning.layout import Layout
from itercomp_rl.gallery.planning.layout_text import parse_layout
from itercomp_rl.gallery.planning.local import LocalChat
from itercomp_rl.gallery.planning.regions import Regions, parse_regions
from itercomp_rl.store.kinds import PLANS
from itercomp_rl.store.store import Store

log = logging.getLogger(__name__)

P = TypeVar("P", Regions, Layout, Canvas)
DOWN_S = 60.0  # a planner that did not answer is not asked again for so long: 400 prompts must not wait 400 time-outs


class Chat(Protocol):
    """A language model that can be asked."""

    num_parallel: int  # prompts asked at a time

    def answer(self, instruction: str, prompt: str) -> str:
        """The model's whole answer.

        Raises: PlannerError if it does not answer, PromptRefusedError if it refuses this prompt alone, PlanError if the
        answer was cut off by max_tokens.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[P]):
    """One form of plan: how a language model is asked for it, how its answer is read, how the rules make it."""

    name: str
    instruction: str
    parse: Callable[[str, str], P]  # prompt, answer
    by_rule: Callable[[str], P]


class Planners:
    """Every planner of gallery.planners, opened on first use; answers are kept in the store by planner and prompt.

    A language model stays in memory beside the backbones once it was asked.
    """

    def __init__(self, store: Store, settings: Mapping[str, PlannerConfig], device: torch.device) -> None:
        self._store, self._settings, self._device = store, settings, device
        self._chats: dict[str, Chat] = {}
        self._down: dict[str, tuple[float, PlannerError]] = {}  # until when, and why

    def unload(self) -> None:
        """Free the language models of this process; endpoints keep what is known of them."""
        self._chats = {name: chat for name, chat in self._chats.items() if self._settings[name].kind != "transformers"}

    def regions(self, planner: str | None, prompts: Sequence[str]) -> list[tuple[Regions, dict[str, Any]]]:
        """A plan for each prompt, with the note that goes beside its image.

        Raises: PlanError or PlannerError where the planner fails and has no fall-back; ConfigError for an unknown one.
        """
        form = Form(name="regions", instruction=REGIONS, parse=parse_regions, by_rule=rule.regions)
        return self._plans(planner, prompts, form)

    def layouts(self, planner: str | None, prompts: Sequence[str]) -> list[tuple[Layout, dict[str, Any]]]:
        """As `regions`, boxes."""
        form = Form(name="layout", instruction=LAYOUT, parse=parse_layout, by_rule=rule.layout)
        return self._plans(planner, prompts, form)

    def canvases(self, planner: str | None, prompts: Sequence[str]) -> list[tuple[Canvas, dict[str, Any]]]:
        """As `regions`, canvases."""
        form = Form(name="canvas", instruction=CANVAS, parse=parse_canvas, by_rule=rule.canvas)
        return self._plans(planner, prompts, form)

    def _plans(self, name: str | None, prompts: Sequence[str], form: Form[P]) -> list[tuple[P, dict[str, Any]]]:
        if name is None or name not in self._settings:
            raise ConfigError(f"planner is {name!r}: must be one of gallery.planners: {', '.join(self._settings)}")
        if self._settings[name].kind == "rule":
            return [_noted(form.by_rule(prompt), name, None) for prompt in prompts]
        with ThreadPoolExecutor(max_workers=self._chat(name).num_parallel) as askers:
            return list(askers.map(lambda prompt: self._plan(name, prompt, form), prompts))

    def _plan(self, name: str, prompt: str, form: Form[P]) -> tuple[P, dict[str, Any]]:
        try:
            return _noted(form.parse(prompt, self._answer(name, prompt, form)), name, None)
        except (PlanError, PlannerError) as error:
            if self._settings[name].fallback is None:
                raise
            log.warning("planner %s failed and the rules took over: %s (prompt %.60r)", name, error, prompt)
            return _noted(form.by_rule(prompt), name, str(error))

    def _answer(self, name: str, prompt: str, form: Form[P]) -> str:
        """An answer that can be parsed, from the store or the model; the first one published is everybody's."""
        settings = self._settings[name]
        asked = [settings.kind, settings.model, settings.url, form.name, form.instruction, prompt]
        id_ = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
        if self._store.has(PLANS, id_):
            return self._store.get(PLANS, id_, []).attrs["answer"]
        answer = self._ask(name, form.instruction, prompt)
        form.parse(prompt, answer)  # only answers that can be drawn are kept
        attrs = {"planner": name, "model": settings.model, "form": form.name, "prompt": prompt, "answer": answer}
        return self._store.put(PLANS, id_, {}, attrs).attrs["answer"]

    def _ask(self, name: str, instruction: str, prompt: str) -> str:
        until, reason = self._down.get(name, (0.0, PlannerError()))
        if time.monotonic() < until:
            raise reason
        try:
            return self._chat(name).answer(instruction, prompt)
        except PromptRefusedError:
            raise
        except PlannerError as error:
            self._down[name] = (time.monotonic() + DOWN_S, error)
            raise

    def _chat(self, name: str) -> Chat:
        if name not in self._chats:
            self._chats[name] = _CHATS[self._settings[name].kind](self._settings[name], self._device)
        return self._chats[name]


_CHATS: dict[str, Callable[[PlannerConfig, torch.device], Chat]] = {
    "transformers": LocalChat,
    "openai": lambda settings, _: EndpointChat(settings),
}


def _noted(plan: P, planner: str, fallback: str | None) -> tuple[P, dict[str, Any]]:
    return plan, {"planner": planner, "fallback": fallback, "plan": asdict(plan)}
