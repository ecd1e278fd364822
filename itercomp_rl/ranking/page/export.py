"""Rankings of a store as files that other runs and other people's tools read."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.prompt_rows import is_text_line
from itercomp_rl.items import ImageRef
from itercomp_rl.ranking import people
from itercomp_rl.ranking.official import image_file, save_official_ranks
from itercomp_rl.ranking.people import Said
from itercomp_rl.ranking.ranking import Places, Ranking, consensus
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.kinds import RANKINGS
from itercomp_rl.store.store import Store


def people_said(store: Store) -> list[Said]:
    """What people ranked. Raises: ConfigError if nobody has."""
    ranked = [said for said in people.load(store) if said.act == "ranked"]
    if not ranked:
        raise ConfigError(f"nobody has ranked images of {store.url} yet: open its page with itercomp rank")
    return ranked


def judge_said(store: Store, round_: int = 0) -> list[Said]:
    """A round's rankings by its judge, in the same form, with "judge" for the rater.

    Raises: ConfigError if the round has none.
    """
    found = [
        Said(
            prompt=prompt,
            aspect=aspect,
            rater="judge",
            time_s=0.0,
            act="ranked",
            places=judged.ranking.places,
            images=images,
        )
        for id_ in store.ids(RANKINGS, f"r{round_:03d}-")
        for prompt, images, rankings in load_rankings(store, id_)
        for aspect, judged in rankings.items()
    ]
    if not found:
        raise ConfigError(f"{store.url} holds no rankings of round {round_}")
    return found


def export(store: Store, everything: Sequence[Said], folder: Path) -> dict[str, tuple[int, int]]:
    """Write all.csv, <aspect>.json (official ranks), prompts.txt and images/ to a new folder.

    all.csv holds every opinion; the official form one strict order of all models: the consensus of a prompt's raters,
    where it has no tie and leaves no model out. A text that cannot be one line of prompts.txt, as it holds a line
    break, turns that file into prompts.json. Returns, per aspect, how many prompts the official file ranks, and of
    how many.
    Raises: ConfigError if the folder exists.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--export {str(folder)!r} must be a new folder: {error}") from error
    _write_csv(folder / "all.csv", everything)
    prompts = {said.prompt.id: said.prompt for said in everything}
    _write_prompts(folder, [prompt.text for prompt in prompts.values()])
    gallery = sorted({model for said in everything for model in said.images})
    counts = {}
    for aspect in sorted({said.aspect for said in everything}):
        opinions = _opinions(everything, aspect)
        rankings = [
            Ranking(prompt_id=id_, aspect=aspect, places=places)
            for id_, places in ((id_, consensus(said)) for id_, said in opinions.items())
            if len(places) == len(gallery)  # untied, and all of them
        ]
        counts[aspect] = (len(rankings), len(opinions))
        if rankings:
            save_official_ranks(
                folder / f"{aspect}.json", rankings, gallery, {id_: prompt.text for id_, prompt in prompts.items()}
            )
    _write_images(store, folder / "images", everything)
    return counts


def _opinions(everything: Sequence[Said], aspect: str) -> Mapping[str, list[Places]]:
    found: dict[str, list[Places]] = {}
    for said in everything:
        if said.aspect == aspect:
            found.setdefault(said.prompt.id, []).append(said.places)
    return found


def _write_prompts(folder: Path, texts: Sequence[str]) -> None:
    """A run that draws these images again finds their ranks by the whole text: not a character may change."""
    if all(map(is_text_line, texts)):
        (folder / "prompts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8", newline="")
    else:
        (folder / "prompts.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, everything: Sequence[Said]) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "aspect", "model", "place", "rater", "time_s"])
        for said in everything:
            for place, models in enumerate(said.places, start=1):
                for model in models:
                    rows.writerow([said.prompt.text, said.aspect, model, place, said.rater, f"{said.time_s:.3f}"])


def _write_images(store: Store, folder: Path, everything: Sequence[Said]) -> None:
    folder.mkdir()
    reader = ImageReader(store)
    refs: dict[tuple[str, str], ImageRef] = {
        (model, said.prompt.id): ref for said in everything for model, ref in said.images.items()
    }
    for (model, prompt_id), ref in refs.items():
        Image.fromarray(reader.load([ref])[0]).save(folder / image_file(model, prompt_id))
