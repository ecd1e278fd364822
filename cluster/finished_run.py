"""What can be asked of a finished run: measure its versions anew, draw with them. In this process, without Ray."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from itercomp_rl.config.judging_sources import for_evaluation
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.evaluation.overlap import overlap
from itercomp_rl.evaluation.scores import Graded, aspects_of
from itercomp_rl.gallery.gallery import Gallery
from itercomp_rl.items import DrawOrder, ModelRef
from itercomp_rl.judges.choice import open_scorer
from itercomp_rl.judges.scoring import ImageScorer, score_aspects
from itercomp_rl.plan import Plan, draw_evaluations
from itercomp_rl.prompts import check_prompt, held_out_prompts, user_prompts
from itercomp_rl.report.images import save_grid
from itercomp_rl.run.prompts_record import trained_texts
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import POLICY
from itercomp_rl.store.store import Store

log = logging.getLogger(__name__)


def evaluate_run(config: Config, store: Store, *, split: str, file: Path | None, seed: int, num: int) -> dict[str, Any]:
    """The `aspects` object of results.json for every published version, drawn and graded anew.

    Nothing is written to the store, save a vision-language model's answers. Raises: ConfigError for prompts outside the
    world.
    """
    if file is not None:
        chosen = [(prompt, repeat) for prompt in user_prompts(file, config.prompts) for repeat in range(num)]
    else:
        chosen = held_out_prompts(config.prompts, num, seed, split)
    if split == "test" or file is not None:
        _warn_of_trained(store, [prompt.text for prompt, _ in chosen])
    plan = Plan(config=config)
    published = set(weights.versions(store, POLICY))
    models = [model for model in plan.evaluated() if model.version is None or model.version in published]
    graded = for_evaluation(config)
    gallery, scorer = _gallery(config, store), open_scorer(config.evaluation.judge, graded, _device(), store)
    grades = {
        model.name: _grades(
            gallery, scorer, draw_evaluations(model, chosen, seed, split, len(chosen)), config.prompts.aspects
        )
        for model in models
    }
    rounds = [plan.policy(version).name for version in sorted(published) if version < plan.rounds]
    return aspects_of(grades, plan.policy(-1).name, rounds)


def _warn_of_trained(store: Store, texts: list[str]) -> None:
    found = overlap(texts, trained_texts(store))
    if found.num_trained_on:
        log.warning(
            "%d of %d prompts were trained on in this run, such as %r: scores on these are not held out",
            found.num_trained_on,
            found.num_prompts,
            found.example,
        )


def _grades(
    gallery: Gallery, scorer: ImageScorer, orders: Iterable[DrawOrder], aspects: Sequence[str]
) -> dict[str, list[Graded]]:
    found: dict[str, list[Graded]] = {}
    place = 0
    for order in orders:
        drawn = gallery.draw(order.model, [prompt.text for prompt in order.prompts], order.seeds)
        rows = [row for row in range(len(order.prompts)) if row not in drawn.missing]
        prompts = [order.prompts[row] for row in rows]
        scored = score_aspects(scorer, prompts, list(drawn.images[rows]), aspects) if rows else []
        for row, prompt, scores in zip(rows, prompts, scored, strict=True):
            for aspect, score in scores.items():
                grade = Graded(place=place + row, prompt=prompt.id, score=score.value, passed=score.passed)
                found.setdefault(aspect, []).append(grade)
        place += len(order.prompts)
    return found


def generate_image(
    config: Config, store: Store, prompt: str, *, round_: int | None, seeds: list[int], compare: bool, out: Path | None
) -> Path:
    """A PNG of the prompt drawn by one version of a run (1 = after the first round), beside the base if asked.

    Raises: ConfigError if that round has published nothing, or the prompt is empty or outside the embedded world.
    """
    check_prompt(prompt, config.prompts)
    plan, published = Plan(config=config), weights.versions(store, POLICY)
    version = (published[-1] if published else -1) if round_ is None else round_ - 1
    if version not in [-1, *published]:
        have = ", ".join(str(v + 1) for v in published) or "none"
        raise ConfigError(f"--round is {round_}: published rounds of this run are {have} (0 is the base)")
    models = [plan.policy(version)] if not compare or version == -1 else [plan.policy(-1), plan.policy(version)]
    gallery = _gallery(config, store)
    columns = [gallery.draw_all(model, [prompt] * len(seeds), seeds) for model in models]
    titles = [_title(model) for model in models]
    path = out or new_picture(
        prompt, f"{'-and-'.join(titles)} seed {seeds[0]}{f' to {seeds[-1]}' if seeds[1:] else ''}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_grid(
        path,
        [[column[i] for column in columns] for i in range(len(seeds))],
        [f"{prompt}\nseed {s}" for s in seeds],
        titles,
    )
    return path


def new_picture(prompt: str, how: str) -> Path:
    """A new, empty PNG file here, named for a prompt and how it is drawn, with a number if the name is taken."""
    words = "".join(c if c.isalnum() else "-" for c in prompt).encode()[:80].decode(errors="ignore")
    name = f"{words}-{how.replace(' ', '-')}"
    for number in count(1):
        path = Path(f"{name}.png" if number == 1 else f"{name}-{number}.png")
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError("there is always a next number")


def _title(model: ModelRef) -> str:
    return "base" if model.version is None else f"round {model.version + 1}"


def _gallery(config: Config, store: Store) -> Gallery:
    return Gallery(store, replace(config.gallery, max_loaded=1), _device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
