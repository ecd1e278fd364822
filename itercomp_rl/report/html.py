"""Puts the report together: facts, plots and pictures into one HTML file that needs no network and runs no script."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from omegaconf import OmegaConf

from itercomp_rl.config.judging_sources import self_grading
from itercomp_rl.config.load import to_tree
from itercomp_rl.evaluation.overlap import overlap_of, overlap_sentence
from itercomp_rl.evaluation.probes import probes_tree
from itercomp_rl.evaluation.scores import aspects_tree
from itercomp_rl.evaluation.side_effects import side_effects
from itercomp_rl.files.whole import write_whole
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.page.session import QUESTIONS
from itercomp_rl.report import pictures, plots
from itercomp_rl.report.facts import RoundLineage, Series, lineage, load_metrics, phases_of
from itercomp_rl.report.missing_images import missing_sentences, missing_tree
from itercomp_rl.report.plans import plan_sentences, plans_tree
from itercomp_rl.report.probe_plots import probe_plots
from itercomp_rl.report.tables import control_rows
from itercomp_rl.store.kinds import GRADES, RANKINGS
from itercomp_rl.store.store import Store

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(store: Store, plan: Plan, folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not, to `out` (<run folder>/report.html); returns where it is.

    What a run has not reached yet is left out, and said to be. Raises: StoreError if a record is damaged.
    """
    results = folder / "results.json"
    facts = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    metrics, made = load_metrics(folder), lineage(store, plan)
    base_done = all(store.has(GRADES, order.id) for order in plan.evaluation_orders(plan.policy(-1)))
    held_out_prompts = facts.get("held_out_prompts") or overlap_of(plan).tree()
    aspects = facts["aspects"] if facts else aspects_tree(store, plan) if base_done else {}
    held = pictures.HeldOutImages(store, plan)
    grid_prompts = plan.config.evaluation.grid_prompts
    ranked_round, extremes = pictures.winners_and_losers(store, plan, 4)
    page = (
        _environment()
        .get_template(TEMPLATE.name)
        .render(
            name=plan.config.run.name,
            finished=bool(facts),
            outline=outline(plan),
            self_grading=self_grading(plan.config),
            verdict=verdict(aspects),
            tiles=tiles(aspects),
            questions={aspect: QUESTIONS[aspect] for aspect in aspects if aspect in QUESTIONS},
            aspects=aspects,
            table=table(aspects, facts.get("control")),
            overlap=overlap_sentence(held_out_prompts),
            score_plots=score_plots(aspects),
            side_effects=side_effects(facts) if facts else ([], []),
            drawn_otherwise=plan_sentences(plans_tree(store, plan)) + missing_sentences(missing_tree(store, plan)),
            lineage=made,
            ran=what_ran(plan, facts, metrics) | {"held-out prompts": held_out_words(held_out_prompts)},
            versions=written_with(store) | facts.get("versions", {}),
            config=OmegaConf.to_yaml(OmegaConf.create(to_tree(plan.config))),
            reward_plots=reward_plots(plan, metrics, made),
            policy_plots=policy_plots(metrics),
            probe_plots=probe_plots(probes_tree(store, plan)),
            system_plots=system_plots(plan, metrics),
            has_utilisation=any(name.startswith(UTILISATION) for name in metrics),
            grid=pictures.before_and_after(held, grid_prompts),
            extremes=extremes,
            ranked_round=ranked_round + 1,
            regressions=pictures.worst_regressions(held, grid_prompts),
            rounds_drawn=max(0, len(held.models) - 1),
            software=metadata.version("itercomp-rl"),
        )
    )
    path = out or folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


UTILISATION = "utilisation/"  # metrics of this prefix: share of the time that a role's processes had work


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = lambda name: name.replace("non_spatial", "non-spatial").replace("_", " ")
    return environment


def outline(plan: Plan) -> str:
    """What the run set out to do, in one sentence."""
    config = plan.config
    rounds = "1 round" if config.run.rounds == 1 else f"{config.run.rounds} rounds"
    if not config.gallery.members:
        return (
            f"{config.policy.model} learned in {rounds} from imported preferences: reward models learn them, and the "
            "policy learns from the rewards."
        )
    also = " and imported preferences" if config.reward.preferences else ""
    return (
        f"{config.policy.model} learned in {rounds} from a gallery of {len(config.gallery.members)} models: they "
        f"draw, their images are ranked, reward models learn the ranks{also}, the policy learns from the rewards and "
        "joins them."
    )


def verdict(aspects: Mapping[str, Any]) -> str:
    """The run in one sentence."""
    rounds = len(next(iter(aspects.values()))["rounds"]) if aspects else 0
    if not rounds:
        return "No round has been evaluated yet."
    base = _mean(aspects, lambda tree: tree["base"])
    gallery = {name: _mean(aspects, lambda tree, n=name: tree["gallery"][n]) for name in _gallery(aspects)}
    best = max(gallery, key=lambda name: gallery[name], default=None)
    last = _mean(aspects, lambda tree: tree["rounds"][-1])
    said = f"Round {rounds} scores {last:.3f} in the mean over aspects; the base {base:.3f}"
    return said + (f", the best gallery model ({best}) {gallery[best]:.3f}." if best else ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Tile(aspect="spatial", gain="+0.439 ± 0.027", change="0.518 → 0.958", word="gain"): the last round's outcome."""

    aspect: str
    gain: str
    change: str
    word: str  # gain | loss | not sure


def tiles(aspects: Mapping[str, Any]) -> list[Tile]:
    """One per aspect, once a round is evaluated; sure is what is larger than two standard errors."""
    found = []
    for aspect, tree in aspects.items():
        gain = tree["paired_gain"]
        if not gain:
            continue
        sure = abs(gain["mean"]) > 2 * gain["se"] and math.isfinite(gain["se"])
        word = "not sure" if not sure else "gain" if gain["mean"] > 0 else "loss"
        change = f"{tree['base']['mean']:.3f} → {tree['rounds'][-1]['mean']:.3f}"
        found.append(Tile(aspect=aspect, gain=f"{gain['mean']:+.3f} ± {gain['se']:.3f}", change=change, word=word))
    return found


def _mean(aspects: Mapping[str, Any], pick: Any) -> float:  # Any: a function from an aspect's tree to its cell
    return sum(pick(tree)["mean"] for tree in aspects.values()) / len(aspects)


def _gallery(aspects: Mapping[str, Any]) -> list[str]:
    return list(next(iter(aspects.values()))["gallery"])


def _models(tree: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rounds = [(f"round {i}", cell) for i, cell in enumerate(tree["rounds"], 1)]
    # The base draws in the gallery too, under a name of the config's choice: shown as its own row.
    return [("base policy", tree["base"]), *tree["gallery"].items(), *rounds]


def table(
    aspects: Mapping[str, Any], control: dict[str, Any] | None = None
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Rows of (kind, model, one cell per aspect); kinds are base, gallery, round and gain."""
    if not aspects:
        return []
    columns = [_models(tree) for tree in aspects.values()]
    rows = []
    for place, (name, _) in enumerate(columns[0]):
        kind = "base" if place == 0 else "gallery" if place <= len(_gallery(aspects)) else "round"
        rows.append((kind, name, [column[place][1] for column in columns]))
    gains = [tree["paired_gain"] for tree in aspects.values()]
    if not gains[0]:
        return rows
    beside = [("gain", name, cells) for name, cells in control_rows(control, list(aspects))]
    return [*rows, ("gain", "paired gain of the last round", gains), *beside]


def score_plots(aspects: Mapping[str, Any]) -> list[plots.Plot]:
    """A panel per aspect, and the gains by round."""
    found = [plots.scores(aspect, _models(tree)) for aspect, tree in aspects.items()]
    by_round = {aspect: tree["paired_gain_by_round"] for aspect, tree in aspects.items()}
    return [*found, plots.gains(by_round)] if any(by_round.values()) else found


def written_with(store: Store) -> dict[str, str]:
    """The project's version and the hash of its code that the rankings' records name; several after an update."""
    wrote = [commit.software for commit in store.commits(RANKINGS)]
    found = {
        name: sorted({software[name] for software in wrote if name in software}) for name in ("itercomp-rl", "code")
    }
    return {name: " and ".join(values) for name, values in found.items() if values}


def what_ran(plan: Plan, facts: Mapping[str, Any], metrics: Mapping[str, Series]) -> dict[str, str]:
    """The run's outline as (what, value)."""
    config, actors = plan.config, plan.config.actors
    ran = {
        "policy": f"{config.policy.model}, {config.policy.engine.kind} engine, {config.policy.updates} updates a round",
        "rounds": str(config.run.rounds),
        "gallery": ", ".join(config.gallery.members),
        "prompts": f"{config.prompts.gallery} gallery, {config.prompts.policy} policy ({config.prompts.source})",
        "judge": f"{config.judge.first_round} first, then {config.judge.later_rounds} ({config.judge.rule})",
        "processes": f"layout {actors.layout}: "
        + ", ".join(
            _counted(getattr(actors, role).count, role)
            for role in ("samplers", "judges", "rollers", "reward_learners", "policy_learners")
        ),
        "seeds": f"run {config.run.seed}, evaluation {config.evaluation.seed}",
    }
    if metrics:
        start = min(series.times[0] for series in metrics.values())
        ran["began"] = f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M} UTC"
    if facts:
        ran["wall time"] = f"{facts['wall_s'] / 60:.1f} min"
        ran["peak memory"] = f"{facts['peak_rss_mb'] / 1024:.1f} GiB (driver and its children)"
    return ran


def held_out_words(tree: Mapping[str, Any]) -> str:
    """How many prompts were held out, from `held_out_prompts` of results.json."""
    return f"{tree['prompts']}, of which {tree['trained_on'] or 'none'} were trained on"


def _counted(num: int, role: str) -> str:
    words = role.replace("_", " ")
    return f"{num} {words.removesuffix('s') if num == 1 else words}"


def reward_plots(plan: Plan, metrics: Mapping[str, Series], made: list[RoundLineage]) -> list[plots.Plot]:
    """Held-out accuracy by round, and how the reward models learned."""
    found, by_aspect = [], {}
    for one in made:
        for report in one.rewards:
            by_aspect.setdefault(report["aspect"], []).append((one.round, report["accuracy"]))
    if by_aspect:
        found.append(plots.accuracies(by_aspect, plan.config.reward.min_accuracy))
    losses = _aspects_of(metrics, "reward/", "_loss")
    if losses:
        caption = "Bradley-Terry loss on the pairs learned from; ln 2 = 0.69 is a model that cannot tell them apart."
        found.append(
            plots.curves("reward-loss", losses, y="loss (nats)", x="report (every 10 updates)", caption=caption)
        )
    return found


def policy_plots(metrics: Mapping[str, Series]) -> list[plots.Plot]:
    """What the policy was pulled by."""
    found = []
    if rewards := _aspects_of(metrics, "policy/reward_", ""):
        caption = "Mean standardised reward of the images that an update learned from. Dotted lines divide the rounds."
        found.append(plots.curves("policy-reward", rewards, y="reward", caption=caption))
    losses = {
        word: metrics[name]
        for word, name in (
            ("feedback", "policy/refl_loss"),
            ("denoising", "policy/denoising_loss"),
            ("distance to the base", "policy/base_distance"),
        )
        if name in metrics
    }
    if losses:
        found.append(plots.curves("policy-loss", losses, y="loss", caption="What an update minimises, before weights."))
    if "policy/grad_norm" in metrics:
        norm = {"gradient norm": metrics["policy/grad_norm"]}
        found.append(plots.curves("policy-norm", norm, y="gradient norm", caption="Before clipping."))
    return found + aspect_plots(metrics)


def aspect_plots(metrics: Mapping[str, Series]) -> list[plots.Plot]:
    """How hard each aspect pulled at the images, and whether aspects pulled the same way, where it was measured."""
    found, x = [], "measurement (every policy.gradient_metrics_every updates)"
    if norms := _aspects_of(metrics, "policy/image_gradient_norm_", ""):
        caption = "Norm of each aspect's gradient at the pixels of an image, a mean over the images that it pulls."
        found.append(plots.curves("aspect-norms", norms, y="gradient norm", x=x, caption=caption))
    if cosines := _aspects_of(metrics, "policy/image_gradient_cosine_", ""):
        caption = "Cosine of two aspects' gradients at the pixels of an image: below 0 they want opposite things of it."
        found.append(plots.curves("aspect-cosines", cosines, y="cosine", x=x, caption=caption, level=("apart", 0.0)))
    return found


def system_plots(plan: Plan, metrics: Mapping[str, Series]) -> list[plots.Plot]:
    """Staleness, utilisation, phases."""
    found = []
    if "policy/lag_updates" in metrics:
        lag, most = {"lag": metrics["policy/lag_updates"]}, plan.config.policy.max_policy_lag
        caption = "How many updates old the oldest rollout of an update was."
        level = ("policy.max_policy_lag", float(most))
        found.append(plots.curves("staleness", lag, y="updates", caption=caption, level=level, whole=True))
    busy = {name.removeprefix(UTILISATION): one for name, one in metrics.items() if name.startswith(UTILISATION)}
    if busy:
        found.append(plots.shares_over_time(busy))
    if phases := phases_of(dict(metrics)):
        found.append(plots.timeline(phases))
    return found


def _aspects_of(metrics: Mapping[str, Series], prefix: str, suffix: str) -> dict[str, Series]:
    found = {
        name.removeprefix(prefix).removesuffix(suffix): series
        for name, series in metrics.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }
    return {name.replace("_", "-"): series for name, series in found.items()}
