"""Bytes and memory of reading images at their real size: `python benchmarks/real_data.py --json real_data.json`.

The real store, judge, reward learner and loader, at the sizes of configs/sdxl_64gpu.yaml: four models, one of 512 px
and three of 1,024 px, 50 prompts a segment, 256 updates. Counts are scaled: `--scale` of 3,500 prompts and of 1,024
pairs a batch. Pixels are noise, and the reward model is a small one that takes 224 px, since what is read depends on
neither. Plain files, one for each image, are the other way: nothing is checked there and nothing is kept.
The peak of memory is read from /proc, so this runs on Linux alone.
"""

import argparse
import ctypes
import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from measures import measure, write
from random_models import word_tokenizer

from actors.judge import Judge
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.items import ImageRef, Prompt, RankOrder, RewardOrder
from itercomp_rl.prompts import prompt_id
from itercomp_rl.reward.checkpoint import load_reward, save_reward
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.reward.published import SCORING_BATCH, score_any_size
from itercomp_rl.store.image_cache import ImageCache
from itercomp_rl.store.image_loader import Image, ImageLoader, View
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.store import Store, open_store
from itercomp_rl.store.traffic import TRAFFIC
from learners.reward import RewardLearner

CPU = torch.device("cpu")
MIB = 2**20
ASPECT = "attribute"
LARGE = ("sdxl", "sd3", "flux")  # members that draw at the larger size; sd15 and the policies draw at the smaller one
SMALL = ("sd15", "policy-0", "policy-1")
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


class CountingLoader(ImageLoader):
    """Notes every image that was asked for."""

    def __init__(self, store: Store, config: Config, folder: Path) -> None:
        cache = ImageCache(folder, int(config.store.image_cache_gib * 1024 * MIB))
        super().__init__(store, cache, config.store.image_memory_mib)
        self.asked: list[ImageRef] = []

    def stream(
        self, batches: Iterable[Sequence[ImageRef]], view: View | None = None
    ) -> Generator[list[Image], None, None]:
        return super().stream(map(self._noted, batches), view)

    def _noted(self, refs: Sequence[ImageRef]) -> Sequence[ImageRef]:
        self.asked += refs
        return refs


def main() -> None:
    """Judge and learn as a run does, counting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=0.01, help="share of the counts of sdxl_64gpu.yaml")
    parser.add_argument("--sides", type=int, nargs=2, default=(512, 1024), help="pixels of the small and large images")
    parser.add_argument(
        "--memory-mib", type=float, default=32, help="store.image_memory_mib, under the held-out pixels"
    )
    parser.add_argument("--updates", type=int, help="of the reward model; None: as the config")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = settings(folder, options.scale, options.memory_mib, options.updates)
        store = open_store((folder / "store").as_uri(), create=True, durable=False)
        draw(store, config, *options.sides)
        write(options.json, [*measures(config, store, folder, *options.sides)])


def settings(folder: Path, scale: float, memory_mib: float, updates: int | None) -> Config:
    """The config's own counts, scaled, with a small reward model that takes images as ImageReward does."""
    whole = load_config("sdxl_64gpu")
    reward = RewardConfig(
        vision={**TOWER, "patch_size": 32},
        text={**TOWER, "vocab_size": 8, "max_position_embeddings": 40},
        mlp_widths=(8, 8, 8, 4),
        mlp_init="unit_gain",
    )
    save_reward(RewardModel(reward, word_tokenizer(35)).eval(), folder / "reward")
    batch = max(2, round(whole.reward.batch * scale))
    num = max(10, round(whole.prompts.gallery * scale))
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(f"prompt number {i}" for i in range(num)), encoding="utf-8")
    return load_config(
        "sdxl_64gpu",
        [
            "prompts.source=files",
            *(f"prompts.{split}_file={prompts}" for split in ("train", "test")),
            *(f"prompts.{count}={num}" for count in ("gallery", "policy")),
            f"prompts.aspects=[{ASPECT}]",
            f"reward.trunk={folder}/reward",
            f"reward.batch={batch}",
            f"reward.micro_batch={min(batch, whole.reward.micro_batch or batch)}",
            f"reward.updates={updates or whole.reward.updates}",
            "reward.engine.dtype=fp32",
            "reward.min_accuracy=0",
            # What reads the images is measured, not what is made of them: any judge that needs no other model will do.
            *("judge.first_round=reward", "evaluation.judge=reward", "evaluation.allow_self_grading=true"),
            "judge.margin=0",
            f"store.image_memory_mib={memory_mib:g}",
        ],
    )


def draw(store: Store, config: Config, small: int, large: int) -> None:
    """Every image of the gallery and of two rounds' policies, as noise."""
    rng = np.random.default_rng(0)
    for model, side in {**dict.fromkeys(SMALL, small), **dict.fromkeys(LARGE, large)}.items():
        for segment, prompts in enumerate(segments(config)):
            images = rng.integers(0, 256, (len(prompts), side, side, 3), dtype=np.uint8)
            store.put(IMAGES, f"{model}-{segment:05d}", {"images": images}, {})


def segments(config: Config) -> list[tuple[Prompt, ...]]:
    """The gallery's prompts as they are drawn and ranked together."""
    texts = [f"prompt number {i}" for i in range(config.prompts.gallery)]
    prompts = [Prompt(id=prompt_id(text), text=text, aspects=(ASPECT,)) for text in texts]
    size = config.gallery.segment
    return [tuple(prompts[begin : begin + size]) for begin in range(0, len(prompts), size)]


def measures(config: Config, store: Store, folder: Path, small: int, large: int) -> Iterator[dict]:
    """Round 0's ranking and learning, publication, two rounds more of ranking, and plain files."""

    def pixels(refs: Iterable[ImageRef]) -> int:
        return sum((small if ref.segment.startswith(SMALL) else large) ** 2 * 3 for ref in refs)

    judge_images = CountingLoader(store, config, folder / "judge")  # of another node than the learner's
    judge = Judge(store, config, CPU, judge_images)
    judge_read = read_by(lambda: rank(judge, config, 0))

    images = CountingLoader(store, config, folder / "learner")
    learner = RewardLearner(store, config.reward, config.judge, folder / "checkpoints", 0, CPU, images)
    rankings = tuple(f"r000-{segment:05d}" for segment in range(len(segments(config))))
    learner.open(RewardOrder(aspect=ASPECT, round=0, version=0, start_version=None, rankings=rankings))
    # A pass: updates that draw as many images as there are.
    a_pass = max(1, round(config.prompts.gallery * 4 / (2 * config.reward.batch)))
    read = read_by(lambda: learner.advance(a_pass))
    first, images.asked = images.asked, []
    unit = "bytes / byte"
    yield measure("bytes read per pixel byte wanted, first pass", read / pixels(set(first)), unit, aim=1.2)
    read = read_by(lambda: learner.advance(max(1, config.reward.updates - a_pass)))
    later, images.asked = images.asked, []
    yield measure("bytes read per pixel byte wanted, later passes", read / pixels(later), unit, aim=0.05)

    bound = config.store.image_memory_mib * MIB + scoring_bytes(folder)
    grown = peak_of(learner.publish)
    yield measure("held-out pixels that publishing reads", pixels(set(images.asked)) / MIB, "MiB", better="higher")
    yield measure("peak memory of publishing", grown / MIB, "MiB")
    yield measure("peak memory of publishing / bound", grown / bound, "ratio", aim=1.2)

    for round_ in (1, 2):
        judge_read += read_by(lambda round_=round_: rank(judge, config, round_))
    yield measure("judge, rounds 0 to 2", judge_read / pixels(judge_images.asked), unit, aim=1.1)
    yield from against_plain_files(config, store, folder, first, later[: len(first)])


def rank(judge: Judge, config: Config, round_: int) -> None:
    """Round 0: all images, by the fixed reward model. Later: the newest policy's are placed by what was learned."""
    models = ("sd15", *LARGE, *(f"policy-{earlier}" for earlier in range(round_)))
    for segment, prompts in enumerate(segments(config)):
        order = RankOrder(
            id=f"r{round_:03d}-{segment:05d}",
            round=round_,
            prompts=prompts,
            images=tuple(
                {model: ImageRef(segment=f"{model}-{segment:05d}", row=row) for model in models}
                for row in range(len(prompts))
            ),
            newcomers=models[-1:] if round_ else (),
            earlier=f"r{round_ - 1:03d}-{segment:05d}" if round_ else None,
            reward_version=0 if round_ else None,
        )
        judge.rank(order)


def read_by(work: Callable[[], object]) -> int:
    """Bytes that a call reads from stores, weights and indexes included."""
    before = TRAFFIC.bytes["read"]
    work()
    return TRAFFIC.bytes["read"] - before


def peak_of(work: Callable[[], object]) -> int:
    """How far a call raises this process's memory at its highest, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed is given back, so that it does not hide a rise
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the system forgets the peak until now
    before = psutil.Process().memory_info().rss
    work()
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if "VmHWM" in line]
    return max(0, int(line.split()[1]) * 1024 - before)


def scoring_bytes(folder: Path) -> int:
    """Host memory that the network takes to score one batch, in bytes; on a GPU this would be GPU memory."""
    model = load_reward(folder / "reward").eval()
    side = model.image_size
    pixels = [np.zeros((side, side, 3), np.uint8)] * SCORING_BATCH
    return peak_of(lambda: score_any_size(RewardEnsemble({ASPECT: model}), pixels, ["prompt number 0"] * len(pixels)))


def against_plain_files(
    config: Config, store: Store, folder: Path, first: Sequence[ImageRef], later: Sequence[ImageRef]
) -> Iterator[dict]:
    """Seconds of the same reads, batch by batch, and fitting; the loader begins with an empty cache."""
    loader = CountingLoader(store, config, folder / "again")
    view = load_reward(folder / "reward").view
    for ref in set(first) | set(later):
        loader.load([ref])[0].tofile(folder / f"{ref.segment}-{ref.row}.bin")
    size = 2 * config.reward.batch

    def plain(refs: Sequence[ImageRef]) -> None:
        for ref in refs:
            pixels = np.fromfile(folder / f"{ref.segment}-{ref.row}.bin", np.uint8)
            side = math.isqrt(len(pixels) // 3)
            view(pixels.reshape(side, side, 3))

    def ours(refs: Sequence[ImageRef]) -> None:
        for _ in loader.stream([refs[begin : begin + size] for begin in range(0, len(refs), size)], view):
            pass

    for name, refs in (("first pass", first), ("later passes", later)):
        took = {"plain files": seconds(lambda refs=refs: plain(refs)), "loader": seconds(lambda refs=refs: ours(refs))}
        for way, spent in took.items():
            yield measure(f"{way}, {name}", spent / len(refs) * 1e3, "ms / image")
        yield measure(f"loader / plain files, {name}", took["loader"] / took["plain files"], "ratio")


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
