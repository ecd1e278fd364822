"""A run's composition-aware preferences as a data set: Parquet with the images in it, and a card.

One row says where one image stands in one ranking:

    ranking   id; rows of one ranking share it, and only their places compare
    prompt    text
    image     PNG, as {bytes, path}, which `datasets` decodes
    model     gallery member or policy that drew it
    seed      that it was drawn with
    aspect    under which it was ranked
    place     1 is best; tied images share a place
    score     that the judge gave; null where people ranked, or where a reward model placed a newcomer
    judge     judge.first_round or judge.later_rounds, "reward model of round N" (counted from 1), or "person N"
    round     in which the ranking was made, from 1; null for people's
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itercomp_rl.config.rules.judging import is_rank_file
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.parquet import require_extra
from itercomp_rl.files.whole import appearing
from itercomp_rl.items import ImageRef, Prompt
from itercomp_rl.plan import Plan
from itercomp_rl.ranking import people
from itercomp_rl.ranking.ranking import Places
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.run.image_export import png_of
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import IMAGES, RANKINGS
from itercomp_rl.store.store import Store

GIB = 2**30
_SAMPLED = 16  # images whose size stands for all

# As `datasets` writes it into a file's schema: without it, an image would be read as a struct of bytes.
_FEATURES = {
    **{name: {"dtype": "string", "_type": "Value"} for name in ("ranking", "prompt", "model", "aspect", "judge")},
    **{name: {"dtype": "int64", "_type": "Value"} for name in ("seed", "place", "round")},
    "score": {"dtype": "float64", "_type": "Value"},
    "image": {"_type": "Image"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One ranking of the images of a prompt, by whomever."""

    id: str
    prompt: Prompt
    aspect: str
    places: Places
    images: Mapping[str, ImageRef]
    scores: Mapping[str, float]
    judge: str  # of the images that have a score, or all
    placed_by: str  # of the others
    round: int | None  # from 1


def export_preferences(
    store: Store, config: Config, folder: Path, *, round_: int | None = None, max_gib: float, licence: str
) -> int:
    """Write the rankings of a round (None: the last that is ranked) and people's into a new folder; returns the rows.

    Raises: ConfigError if pyarrow is missing, nothing is ranked, or the images need more than max_gib or than is free.
    """
    require_extra("pyarrow", "a data set of preferences")
    plan = Plan(config=config)
    ids = _ranked_ids(store, plan, round_)
    _check_size(store, [ranked for id_ in ids for ranked in _of_record(store, config, id_)], folder, max_gib)
    said = list(_of_people(store))
    with appearing(folder) as partial:
        (partial / "data").mkdir(parents=True)
        parts = [(id_, list(_of_record(store, config, id_))) for id_ in ids] + ([("people", said)] if said else [])
        num = sum(_write(store, partial / "data" / f"{name}.parquet", ranked) for name, ranked in parts)
        (partial / "README.md").write_text(_card(config, num, licence), encoding="utf-8")
    return num


def _ranked_ids(store: Store, plan: Plan, round_: int | None) -> list[str]:
    rounds = range(plan.rounds - 1, -1, -1) if round_ is None else [round_ - 1]
    for number in rounds:
        ids = [id_ for id_ in (plan.rankings(number) if 0 <= number < plan.rounds else ()) if store.has(RANKINGS, id_)]
        if ids:
            return ids
    which = "no round" if round_ is None else f"round {round_}"
    raise ConfigError(f"store {store.url} holds no rankings of {which}: nothing is ranked yet, or --round is wrong")


def _of_record(store: Store, config: Config, id_: str) -> Iterator[Ranked]:
    round_ = int(store.get(RANKINGS, id_).attrs["round"])
    judge = config.judge
    kind = judge.first_round if round_ == 0 or judge.later_rounds == "reward" else judge.later_rounds
    for prompt, images, rankings in load_rankings(store, id_):
        for aspect, judged in rankings.items():
            yield Ranked(
                id=f"{id_}-{prompt.id}-{aspect}",
                prompt=prompt,
                aspect=aspect,
                places=judged.ranking.places,
                images=images,
                scores=judged.scores,
                judge="people" if is_rank_file(kind) else kind,
                placed_by="people" if is_rank_file(kind) and round_ == 0 else f"reward model of round {round_}",
                round=round_ + 1,
            )


def _of_people(store: Store) -> Iterator[Ranked]:
    raters: dict[str, str] = {}  # names are not given away
    for said in people.load(store):
        if said.act == "ranked":
            name = raters.setdefault(said.rater, f"person {len(raters) + 1}")
            yield Ranked(
                id=f"{name.replace(' ', '-')}-{said.prompt.id}-{said.aspect}",
                prompt=said.prompt,
                aspect=said.aspect,
                places=said.places,
                images=said.images,
                scores={},
                judge=name,
                placed_by=name,
                round=None,
            )


def _check_size(store: Store, ranked: Sequence[Ranked], folder: Path, max_gib: float) -> None:
    refs = [ref for one in ranked for place in one.places for model in place for ref in [one.images[model]]]
    reader = ImageReader(store)
    chosen = [refs[i] for i in sorted({round(at) for at in np.linspace(0, len(refs) - 1, min(_SAMPLED, len(refs)))})]
    gib = len(refs) * float(np.mean([len(png_of(reader.load_each([ref])[0])) for ref in chosen])) / GIB
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(above).free / GIB
    if gib > max_gib:
        raise ConfigError(
            f"--max-gib is {max_gib:g}, and {len(refs)} images of these rankings need about {gib:.2g} GiB: raise it"
        )
    if gib > free:
        raise ConfigError(
            f"--to is {str(folder)!r}, where {free:.2g} GiB are free, and these rankings need about {gib:.2g}: name "
            "another disk"
        )


def _write(store: Store, file: Path, ranked: Sequence[Ranked]) -> int:
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    kinds = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}
    fields = [(name, kinds[feature["dtype"]] if "dtype" in feature else image) for name, feature in _FEATURES.items()]
    features = json.dumps({"info": {"features": _FEATURES}})
    schema = pyarrow.schema(fields, metadata={"huggingface": features})
    num, reader = 0, ImageReader(store)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for one in ranked:
            rows = list(_rows(store, reader, one))
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            num += len(rows)
    return num


def _rows(store: Store, reader: ImageReader, one: Ranked) -> Iterator[dict[str, Any]]:
    for place, models in enumerate(one.places, 1):
        for model in models:
            ref = one.images[model]
            yield {
                "ranking": one.id,
                "prompt": one.prompt.text,
                "image": {"bytes": png_of(reader.load_each([ref])[0]), "path": f"{ref.segment}-{ref.row:05d}.png"},
                "model": model,
                "seed": int(store.get(IMAGES, ref.segment, ["seeds"]).arrays["seeds"][ref.row]),
                "aspect": one.aspect,
                "place": place,
                "score": one.scores.get(model),
                "judge": one.judge if model in one.scores or not one.scores else one.placed_by,
                "round": one.round,
            }


def _card(config: Config, num: int, licence: str) -> str:
    members = ", ".join(f"{name} (`{member.model}`)" for name, member in config.gallery.members.items())
    return f"""---
license: {json.dumps(licence)}
task_categories:
  - text-to-image
tags:
  - itercomp
  - preference
configs:
  - config_name: default
    data_files: data/*.parquet
---

# Preferences of {config.run.name}

{num} places of images in rankings, made with itercomp-rl after IterComp (arXiv 2410.07171): several models draw each
prompt, and their images are ranked under each aspect that it is about ({", ".join(config.prompts.aspects)}).

| column | what |
|---|---|
| `ranking` | rows of one ranking share it; only their places compare |
| `prompt`, `image`, `model`, `seed` | what was drawn, by whom, from which seed |
| `aspect`, `place` | 1 is best; tied images share a place |
| `score` | what the judge gave; null where it gave none |
| `judge`, `round` | who ranked, and in which round; null for people's rankings |

Gallery: {members}. First judge: {config.judge.first_round}. The images are under the terms of the models that drew
them.
"""
