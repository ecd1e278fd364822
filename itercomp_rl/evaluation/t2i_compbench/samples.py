"""T2I-CompBench from prompts to scores, in a folder; what is there already is not drawn or scored again."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.evaluation.t2i_compbench.files import image_name, read_result, write_result
from itercomp_rl.files.whole import replacing, write_whole

FIRST_SEED = 42  # image n of every prompt is seeded 42 + n
SAVE_EVERY = 100  # images between savings of an unfinished metric
PARTIAL = "partial"

Picture = NDArray[np.uint8]  # [H, W, 3]
Scoring = Callable[[str, Picture], float]
Progress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of the benchmark: Sample(prompt="a red cup", number=13, seed=45) is image 3 of the second prompt."""

    prompt: str
    number: int
    seed: int

    @property
    def name(self) -> str:
        """Its file name."""
        return image_name(self.prompt, self.number)


Group = Sequence[Sample]


class Drawer(Protocol):
    """Draws groups of samples, here or by several processes at once."""

    def __call__(self, groups: Sequence[Group]) -> Iterable[tuple[Group, NDArray[np.uint8]]]:
        """Every group with its images [N, H, W, 3], in whichever order they are done."""
        ...


def samples_of(prompts: Sequence[str], images_per_prompt: int) -> list[Sample]:
    """Every image of a category, in the benchmark's order."""
    return [
        Sample(prompt=prompt, number=i * images_per_prompt + n, seed=FIRST_SEED + n)
        for i, prompt in enumerate(prompts)
        for n in range(images_per_prompt)
    ]


def draw_samples(
    folder: Path, samples: Sequence[Sample], draw: Drawer, *, batch: int, progress: Progress, shard: tuple[int, int]
) -> None:
    """Draw what is missing of <folder>/samples, of the prompts of one shard (i of n); files appear complete.

    Raises: ConfigError if the folder holds images of other prompts: scores are kept by number, and would be mixed up.
    """
    place = folder / "samples"
    place.mkdir(parents=True, exist_ok=True)
    listing = [{"number": s.number, "prompt": s.prompt, "seed": s.seed, "file": s.name} for s in samples]
    content, told = json.dumps(listing, indent=0, ensure_ascii=False), folder / "samples.json"
    if told.is_file() and told.read_text(encoding="utf-8") != content:
        raise ConfigError(f"{folder} holds images of other prompts: give the same --prompts, or another --out")
    write_whole(told, content)
    part, num_parts = shard
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(s.prompt for s in samples))}
    own = [sample for sample in samples if prompts[sample.prompt] % num_parts == part]
    missing = [sample for sample in own if not (place / sample.name).exists()]
    done = len(own) - len(missing)
    for group, images in draw([missing[start : start + batch] for start in range(0, len(missing), batch)]):
        for sample, image in zip(group, images, strict=True):
            with replacing(place / sample.name) as new:
                Image.fromarray(image).save(new, format="PNG")
        done += len(group)
        progress("images", done, len(own))


def score_samples(
    folder: Path, where: str, samples: Sequence[Sample], scoring: Scoring, progress: Progress
) -> list[float]:
    """Scores of every sample by one metric, in <folder>/<where>/vqa_result.json; an unfinished metric goes on."""
    finished = read_result(folder / where)
    if finished is not None and list(finished) == [sample.number for sample in samples]:
        return list(finished.values())
    scores = read_result(folder / where / PARTIAL) or {}
    for sample, image in _images(folder, [sample for sample in samples if sample.number not in scores]):
        scores[sample.number] = scoring(sample.prompt, image)
        if len(scores) % SAVE_EVERY == 0:
            write_result(folder / where / PARTIAL, scores, list(scores.values()))
            progress(where, len(scores), len(samples))
    ordered = [scores[sample.number] for sample in samples]
    write_result(folder / where, [sample.number for sample in samples], ordered)
    (folder / where / PARTIAL / "vqa_result.json").unlink(missing_ok=True)
    progress(where, len(samples), len(samples))
    return ordered


def _images(folder: Path, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Picture]]:
    for sample in samples:
        path = folder / "samples" / sample.name
        try:
            with Image.open(path) as image:
                picture = np.asarray(image.convert("RGB"))
        except OSError as error:  # Pillow's own errors are of this class
            raise ConfigError(
                f"--out holds {path}, which is no image that can be read ({error}): delete it and give the command "
                "again; it is drawn anew"
            ) from error
        yield sample, picture
