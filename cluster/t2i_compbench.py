"""What `itercomp evaluate t2i-compbench` does: models draw its prompts, metrics score them, a table is left."""

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from cluster.image_drawers import by_actors, here
from cluster.local_paths import settled, settled_ref
from cluster.processes import cluster
from cluster.run_folder import load_run
from itercomp_rl.config.schema import OWN_POLICY, Config
from itercomp_rl.diffusion.checkpoint import check_drawing
from itercomp_rl.errors import ConfigError
from itercomp_rl.evaluation.statistics import Mean
from itercomp_rl.evaluation.t2i_compbench.clip import Aesthetic, Clip, check_aesthetic
from itercomp_rl.evaluation.t2i_compbench.files import read_prompts, write_result
from itercomp_rl.evaluation.t2i_compbench.metrics import METRICS, NOT_COMPARABLE, Metrics, check_metrics, combined
from itercomp_rl.evaluation.t2i_compbench.samples import (
    FIRST_SEED,
    Drawer,
    Sample,
    Scoring,
    draw_samples,
    samples_of,
    score_samples,
)
from itercomp_rl.evaluation.t2i_compbench.table import Cells, Column, from_json, score_of, text_table, write_tables
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.whole import write_whole
from itercomp_rl.items import ModelRef
from itercomp_rl.plan import Plan
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.published import load_any_reward, score_any_size
from itercomp_rl.reward.source import check_reward_source
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import POLICY
from itercomp_rl.store.software import versions

log = logging.getLogger(__name__)

METRIC_NAMES = {
    "color": "BLIP-VQA",
    "shape": "BLIP-VQA",
    "texture": "BLIP-VQA",
    "spatial": "2D geometry, {detector} in place of UniDet",
    "3d_spatial": "3D geometry, {detector} and {depth} in place of UniDet's experts",
    "numeracy": "counts, {detector} in place of UniDet",
    "non_spatial": "CLIPScore",
    "complex": "3-in-1, {detector} in place of UniDet",
    "clip_score": "realism: CLIP cosine",
    "aesthetic": "realism: LAION aesthetic",
    "image_reward": "realism: ImageReward",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Realism:
    """Which measures besides the benchmark's are taken of every image; None = not this one."""

    clip_score: bool = False
    aesthetic: str | None = None  # LAION's head, a file or owner/name:file
    aesthetic_clip: str = "openai/clip-vit-large-patch14"
    image_reward: str | None = None  # an official checkpoint or a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One evaluation, as the command line gives it."""

    models: tuple[tuple[str, str], ...]  # name, source
    out: Path
    prompts: Path
    categories: tuple[str, ...]
    images: int
    limit: int | None  # prompts per category
    num_steps: int
    guidance: float
    shard: tuple[int, int]
    realism: Realism
    address: str | None = None  # of a Ray cluster to draw on


def run(job: Job, config: Config) -> Table | None:
    """Draw, score and write the tables; with a shard, only draw. Whatever is there already is taken as it is.

    Raises: ConfigError if `out` holds an evaluation with other settings; it or CheckpointError, before anything is
    drawn, if a metric's model cannot be had.
    """
    samples = {
        category: samples_of(read_prompts(job.prompts, category)[: job.limit], job.images)
        for category in job.categories
    }
    models = [_model(name, source, job, config) for name, source in job.models]
    local = settled(config)  # to draw and score with; the folder keeps the paths that were typed
    if job.shard[1] == 1:
        _check_scorers(job, local)
    settings = _settings(job, config)
    _claim(job.out, settings)
    for name, ref, _ in models:
        # A key that is newer than some folders counts only where it says something.
        drawn_by = {key: value for key, value in asdict(ref).items() if key != "endpoint" or value is not None}
        _claim(job.out / name, {"model": drawn_by})
    models = [(name, settled_ref(ref), store_url) for name, ref, store_url in models]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_actors = config.actors.samplers.count > 1 or job.address is not None
    with cluster(job.address) if has_actors else nullcontext():
        for name, ref, store_url in models:
            own = replace(local, store=replace(local.store, url=store_url))
            with by_actors(own, ref) if has_actors else nullcontext(here(own, ref, device)) as draw:
                _draw(job, own, name, draw, samples)
    if job.shard[1] > 1:
        return None
    scorings = _Scorings(job, local, device)
    cells = {name: _scores(job, name, samples, scorings) for name, _, _ in models}
    cells = _with_earlier(job.out, cells)
    columns = _columns(cells, config)
    title = f"T2I-CompBench, {config.judge.t2i_compbench.mode} mode"
    write_tables(job.out, title, columns, cells, settings)
    return text_table(title, columns, cells)


def parse_model(text: str) -> tuple[str, str]:
    """("sdxl", "stabilityai/...") of "sdxl=stabilityai/..."; without a name, one is made from the source."""
    name, has_name, source = text.partition("=")
    source = source if has_name else text
    name = name if has_name else Path(text).name
    if not name or not source or "/" in name or name.startswith("."):
        raise ConfigError(f"--model is {text!r}: must be NAME=SOURCE, with a name that can be a folder")
    return name, source


def _model(name: str, source: str, job: Job, config: Config) -> tuple[str, ModelRef, str]:
    """The name, how it draws, and the URL of the store that its weights and plans lie in.

    A checkpoint; RUN or RUN@ROUND, the policy that a run published last, or after that round (0 = its base); or
    member:NAME, whatever gallery.members says of NAME.
    """
    plans = (job.out.absolute() / "plans").as_uri()
    if source.startswith("member:"):
        member = source.removeprefix("member:")
        if member not in config.gallery.members or config.gallery.members[member].model == OWN_POLICY:
            raise ConfigError(
                f"--model {name}={source}: gallery.members has no {member!r} with a model of its own; give it as "
                f"gallery.members.{member}={{model: ..., num_steps: ...}}"
            )
        ref = Plan(config=config).member(member)
        if ref.system == "folder":
            raise ConfigError(
                f"--model {name}={source}: {member!r} is a folder of images, which draws no prompt of the benchmark: "
                "name a model or an endpoint"
            )
        if ref.system == "endpoint":
            return name, ref, plans
        check_drawing(checkpoint_path(settled_ref(ref).checkpoint))
        return name, ref, plans
    run_, _, round_ = source.rpartition("@") if "@" in source else (source, "", "")
    if (Path(run_) / "config.yaml").is_file():
        run_config, store = load_run(run_)
        published = weights.versions(store, POLICY)
        if round_ and not round_.isdecimal():
            raise ConfigError(f"--model {name}={source}: the round after @ must be a number")
        version = int(round_) - 1 if round_ else (published[-1] if published else -1)
        if version not in (-1, *published):
            raise ConfigError(
                f"--model {name}={source}: published rounds are {[v + 1 for v in published]} (0: the base)"
            )
        policy = Plan(config=run_config).policy(version)
        return name, replace(policy, num_steps=job.num_steps, guidance=job.guidance), run_config.store_url
    ref = ModelRef(name=name, checkpoint=source, num_steps=job.num_steps, guidance=job.guidance)
    check_drawing(checkpoint_path(settled_ref(ref).checkpoint))
    return name, ref, plans


def _settings(job: Job, config: Config) -> dict[str, Any]:
    return {
        "images_per_prompt": job.images,
        "prompts_per_category": job.limit,
        "first_seed": FIRST_SEED,
        "num_steps": job.num_steps,
        "guidance": job.guidance,
        "dtype": config.gallery.dtype,
        "metrics": asdict(config.judge.t2i_compbench),
        "versions": versions(),
    }


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Scores of one folder are made under one set of settings; only library versions may move on."""
    path = out / "settings.json"
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        if differing := [key for key, value in settings.items() if key != "versions" and old.get(key) != value]:
            raise ConfigError(
                f"--out {str(out)!r} holds an evaluation with another {', '.join(differing)}: give the same settings "
                f"({path}), or another --out"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error}") from error


def _draw(job: Job, config: Config, name: str, draw: Drawer, samples: dict[str, list[Sample]]) -> None:
    for category, chosen in samples.items():
        draw_samples(
            job.out / name / category,
            chosen,
            draw,
            batch=config.gallery.batch,
            progress=_progress(f"{name}, {category}"),
            shard=job.shard,
        )


def _check_scorers(job: Job, config: Config) -> None:
    """What only scoring needs, and a mistake in which would otherwise show when everything is drawn."""
    realism = job.realism
    check_metrics(config.judge.t2i_compbench, job.categories, clip_score=realism.clip_score)
    if realism.aesthetic:
        check_aesthetic(realism.aesthetic_clip, realism.aesthetic)
    if realism.image_reward:
        check_reward_source("--image-reward", realism.image_reward)


class _Scorings:
    """The metrics' models, loaded once for all models and categories."""

    def __init__(self, job: Job, config: Config, device: torch.device) -> None:
        self.metrics = Metrics(config.judge.t2i_compbench, device)
        self.realism: dict[str, Scoring] = {}
        if job.realism.clip_score:
            self.realism["clip_score"] = self.metrics.clip
        if job.realism.aesthetic:
            head = Aesthetic(Clip(job.realism.aesthetic_clip, device), job.realism.aesthetic)
            self.realism["aesthetic"] = lambda _, image: head.score(image)
        if job.realism.image_reward:
            model = load_any_reward(job.realism.image_reward).to(device).eval().requires_grad_(False)
            ensemble = RewardEnsemble({"image_reward": model})
            self.realism["image_reward"] = lambda prompt, image: score_any_size(ensemble, [image], [prompt])[0][
                "image_reward"
            ]


def _scores(job: Job, name: str, samples: dict[str, list[Sample]], scorings: _Scorings) -> dict[str, Mean]:
    found: dict[str, Mean] = {}
    realism: dict[str, tuple[list[str], list[float]]] = {key: ([], []) for key in scorings.realism}
    for category, chosen in samples.items():
        folder, told = job.out / name / category, _progress(f"{name}, {category}")
        prompts = [sample.prompt for sample in chosen]
        parts = [
            score_samples(folder, where, chosen, lambda p, i, m=metric: m(scorings.metrics, p, i), told)
            for where, metric in METRICS[category]
        ]
        scores = parts[0]
        if category == "complex":
            scores = combined(prompts, parts)
            write_result(folder / "annotation_3_in_1", [sample.number for sample in chosen], scores)
        found[category] = score_of(prompts, scores)
        for key, scoring in scorings.realism.items():
            realism[key][0].extend(prompts)
            realism[key][1].extend(score_samples(folder, f"realism_{key}", chosen, scoring, told))
    return found | {key: score_of(prompts, scores) for key, (prompts, scores) in realism.items()}


def _with_earlier(out: Path, cells: Cells) -> Cells:
    """Scores of earlier calls on the same folder stay in the table."""
    path = out / "table.json"
    if not path.is_file():
        return cells
    earlier = json.loads(path.read_text(encoding="utf-8"))["models"]
    kept = {model: {name: from_json(mean) for name, mean in scores.items()} for model, scores in earlier.items()}
    return {
        model: {**kept.get(model, {}), **cells.get(model, {})}
        for model in [*kept, *(m for m in cells if m not in kept)]
    }


def _columns(cells: Cells, config: Config) -> list[Column]:
    there = {name for scores in cells.values() for name in scores}
    models = asdict(config.judge.t2i_compbench)
    return [
        Column(name=name, metric=metric.format(**models), comparable=name not in NOT_COMPARABLE)
        for name, metric in METRIC_NAMES.items()
        if name in there
    ]


def _progress(what: str) -> Callable[[str, int, int], None]:
    return lambda part, done, total: log.info("%s: %s %d of %d", what, part, done, total)
