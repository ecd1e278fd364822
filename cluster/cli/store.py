"""`itercomp store`: look into a run's store, check it, clean it, take images out, ask where a policy came from.

Imports wait until a command needs them, so that --help stays quick.
"""

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.cli.completion import complete_run
from cluster.cli.output import OutputFile, OutputFolder

if TYPE_CHECKING:
    from itercomp_rl.run.lineage import ImagesOrigin, Lineage, Made
    from itercomp_rl.store.store import Store

_RUN = click.argument("run", metavar="RUN", shell_complete=complete_run)
_MIB = 2**20


@click.group(short_help="Look into a run's store, check it, clean it.")
def store() -> None:
    """Look into a run's store, check it, clean it. RUN is a run folder, a run's name under ./runs, or a store's URL."""


@store.command(short_help="List what a store holds.")
@_RUN
def ls(run: str) -> None:
    """List records and weights by kind, with their sizes."""
    from cluster.run_folder import load_store

    for line in summary(load_store(run)):
        click.echo(line)


def summary(store: "Store") -> list[str]:
    """One line per kind of record and per role of weights."""
    from itercomp_rl.store.layout import is_own

    sizes = {top: store.backend.sizes(top) for top in ("segments", "weights")}
    markers = {"segments": store.markers(), "weights": list(filter(is_own, store.backend.sizes("versions")))}
    count: Counter[str] = Counter()
    mib: defaultdict[str, float] = defaultdict(float)
    newest: dict[str, int] = {}
    for names in ("segments", "weights"):
        for key in markers[names]:
            kind = f"{names}/{key.split('/')[1]}"
            count[kind] += 1
            if names == "weights":
                newest[kind] = max(newest.get(kind, -1), int(key.rsplit("/", 1)[1].removesuffix(".json")))
        for key, size in sizes[names].items():
            mib[f"{names}/{key.split('/')[1]}"] += size / _MIB
    lines = [f"store {store.url}"]
    for kind in sorted({*count, *mib}):
        latest = f"  latest version {newest[kind]}" if kind in newest else ""
        lines.append(f"{kind:<32} {count[kind]:>8} published {mib[kind]:>12.1f} MiB{latest}")
    return lines


@store.command(short_help="Read every byte and name what is damaged.")
@_RUN
@click.option("--json", "as_json", is_flag=True, help="Print the problems as a JSON list.")
def verify(run: str, as_json: bool) -> None:
    """Read every byte and name what is damaged, lost or unpublished; exit code 4 if anything is damaged or lost."""
    from dataclasses import asdict

    from cluster.run_folder import load_store
    from itercomp_rl.errors import CorruptRecordError
    from itercomp_rl.store.retention import verify as check

    found = load_store(run)
    problems = check(found)
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            click.echo(f"{problem.kind:<8} {problem.key}: {problem.reason}")
    counts = Counter(problem.kind for problem in problems)
    if counts["corrupt"]:
        raise CorruptRecordError(f"{counts['corrupt']} of the store's records or documents are damaged: {found.url}")
    if not as_json:
        left = "".join(f", {count} {kind}" for kind, count in sorted(counts.items()))
        click.echo(f"every published record is whole{left}")


@store.command(short_help="Delete what nobody needs any more.")
@_RUN
@click.option(
    "--grace-s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds between the end of a version's visibility and of its data, for readers that are loading it.",
)
def gc(run: str, grace_s: float) -> None:
    """Delete old live weights and data that nobody published; what rounds published stays. Safe beside a run."""
    from cluster.run_folder import load_store
    from itercomp_rl.store.live_weights import collect_run

    done = collect_run(load_store(run), grace_s=grace_s, now=time.time(), with_orphans=True)
    click.echo(f"{len(done.retired)} old versions are no longer visible, the data of {len(done.deleted)} are deleted")
    if done.retired:
        click.echo(f"data of versions retired now are deleted by a gc after {grace_s:g} s")


@store.command(short_help="Gather old markers, so that few are read.")
@_RUN
@click.option(
    "--undo", is_flag=True, help="Let every marker lie by itself again; for a store that nobody uses meanwhile."
)
def compact(run: str, undo: bool) -> None:
    """Gather markers older than half a day into packs, so that few objects are listed and read. Safe beside a run."""
    from cluster.run_folder import load_store
    from itercomp_rl.store.packs import compact as gather
    from itercomp_rl.store.packs import scatter

    backend = load_store(run).backend
    if undo:
        click.echo(f"{scatter(backend, now=time.time())} markers lie by themselves again")
    else:
        click.echo(f"{gather(backend, now=time.time())} markers are packed")


@store.command(short_help="Write images with captions for other software.")
@_RUN
@click.option("--out", type=OutputFolder(), required=True, help="A folder that does not exist yet.")
@click.option("--kind", default="images", show_default=True, help="images (the gallery's) or evaluations.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["png", "tar"]),
    default="png",
    show_default=True,
    help="png: files and metadata.jsonl; tar: webdataset shards of KEY.png, KEY.txt, KEY.json.",
)
def export(run: str, out: Path, kind: str, form: str) -> None:
    """Write images with captions, model and seed, for other software."""
    from cluster.run_folder import load_store
    from itercomp_rl.run.image_export import export_images

    count = export_images(load_store(run), kind, out, form)
    click.echo(f"{count} images: {out}")


@store.command(short_help="Say what a policy was made from.")
@_RUN
@click.argument("version", type=int, required=False)
@click.option("--prompt", help="Also list every image of prompts that contain this text.")
@click.option("--json", "file", type=OutputFile(), help="Write all of it, down to every pair and seed.")
def trace(run: str, version: int | None, prompt: str | None, file: Path | None) -> None:
    """Say what policy VERSION (from 0; default: the latest) came from: rewards, pairs, images, models, seeds, code."""
    from cluster.run_folder import load_run
    from itercomp_rl.errors import ConfigError
    from itercomp_rl.run.lineage import trace as follow
    from itercomp_rl.store import weights
    from itercomp_rl.store.kinds import POLICY

    config, found = load_run(run)
    chosen = weights.latest(found, POLICY) if version is None else version
    if chosen is None:
        raise ConfigError(f"{run!r} has published no policy yet")
    lineage = follow(found, config, chosen)
    for line in story(lineage, prompt):
        click.echo(line)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(lineage.tree(), indent=1) + "\n", encoding="utf-8")
        click.echo(f"all of it: {file}")


def story(lineage: "Lineage", prompt: str | None = None) -> list[str]:
    """A lineage in lines, newest first."""
    lines = []
    for policy in reversed(lineage.policies):
        start = policy.base if policy.start_version is None else f"policy {policy.start_version}"
        rewards = ", ".join(f"{aspect} {version}" for aspect, version in policy.rewards.items())
        lines.append(
            f"policy {policy.version}: {policy.updates} updates from {start}, run seed {policy.seed}, "
            f"reward models {rewards}; {_by(policy.made)}"
        )
    for reward in reversed(lineage.rewards):
        lines.append(
            f"reward {reward.aspect} {reward.version}: {len(reward.pairs)} pairs learned, {len(reward.held_out)} held "
            f"out, right on {reward.accuracy:.0%} of these; {_by(reward.made)}"
        )
    by_model: dict[str, list[ImagesOrigin]] = {}
    for segment in lineage.images:
        by_model.setdefault(segment.model, []).append(segment)
    for model, segments in by_model.items():
        seeds = [seed for segment in segments for seed in segment.seeds]
        lines.append(
            f"images of {model}: {len(seeds)} of {segments[0].checkpoint} in {len(segments)} segments, "
            f"{len(set(seeds))} seeds; {_by(segments[0].made)}"
        )
    prompts = {text for segment in lineage.images for text in segment.prompts}
    lines.append(f"prompts: {len(prompts)}; rankings: {len(lineage.rankings)}; code: {', '.join(lineage.code)}")
    if prompt is not None:
        lines += [
            f"  {segment.id} row {row}: {text!r} by {segment.model}, seed {seed}"
            for segment in lineage.images
            for row, (text, seed) in enumerate(zip(segment.prompts, segment.seeds, strict=True))
            if prompt in text
        ]
    return lines


def _by(made: "Made") -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(made.time_s))
    return f"{when} UTC by {made.writer}, code {made.software.get('code', 'unknown')}"
