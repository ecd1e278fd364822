"""Measures the store against plain files, in one run: `python benchmarks/store.py --json FILE` (a few minutes).

Images and weights are written and read back through the page cache, so these are costs of formats and of checking, not
of a disk. Every figure is the median of its repeats, and the candidates of one comparison take turns.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from itercomp_rl.store import weights
from itercomp_rl.store.kinds import IMAGES, POLICY
from itercomp_rl.store.packs import PACKED_AFTER_S, compact
from itercomp_rl.store.retention import collect
from itercomp_rl.store.store import Store, open_store

MIB = 2**20
GROUPS = {64: 100, 512: 6, 1024: 6}  # image side in pixels: images per group, as a run cuts them
NUM_GROUPS = {64: 20, 512: 8, 1024: 4}


def measure(name: str, value: float, unit: str, *, better: str, aim: float | None = None) -> dict[str, Any]:
    """One row of the result; `better` is "lower" or "higher", `aim` None where a figure only informs."""
    return {"name": name, "value": round(value, 6), "aim": aim, "better": better, "unit": unit}


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """An empty folder, gone afterwards."""
    path = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def image_group(side: int, number: int) -> np.ndarray:
    """[n, side, side, 3] u1: soft shapes with sensor-like noise, which PNG can shrink a little, as real pictures."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (GROUPS[side], 8, 8, 3), dtype=np.uint8)
    smooth = coarse.repeat(side // 8, 1).repeat(side // 8, 2)
    return smooth // 2 + rng.integers(0, 32, smooth.shape, dtype=np.uint8)


class StoreFormat:
    """The project's own store; every byte is checked when it is read."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._store = open_store(str(path), create=True, durable=durable)

    def write(self, number: int, group: np.ndarray) -> None:
        self._store.put(IMAGES, f"g{number:05d}", {"images": group}, {"round": 0})

    def read(self, number: int) -> np.ndarray:
        return self._store.get(IMAGES, f"g{number:05d}").arrays["images"]


class RawFiles:
    """One file of pixels per group, nothing checked: the fastest there can be."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._path, self._durable = path, durable
        self._shape: tuple[int, ...] = ()

    def write(self, number: int, group: np.ndarray) -> None:
        self._shape = group.shape
        with (self._path / f"{number}.bin").open("wb") as file:
            file.write(group.data)
            if self._durable:
                file.flush()
                os.fsync(file.fileno())

    def read(self, number: int) -> np.ndarray:
        return np.fromfile(self._path / f"{number}.bin", np.uint8).reshape(self._shape)


class PngFiles:
    """One PNG per image."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, number: int, group: np.ndarray) -> None:
        for row, image in enumerate(group):
            Image.fromarray(image).save(self._path / f"{number}-{row}.png")

    def read(self, number: int) -> np.ndarray:
        paths = sorted(self._path.glob(f"{number}-*.png"), key=lambda path: int(path.stem.split("-")[1]))
        return np.stack([np.asarray(Image.open(path)) for path in paths])


class TorchFiles:
    """torch.save of each group."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, number: int, group: np.ndarray) -> None:
        torch.save(torch.from_numpy(group), self._path / f"{number}.pt")

    def read(self, number: int) -> np.ndarray:
        return torch.load(self._path / f"{number}.pt", weights_only=True).numpy()


class TarFiles:
    """One tar per group, a .npy and a .txt member per image, as webdataset lays samples out."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, number: int, group: np.ndarray) -> None:
        with tarfile.open(self._path / f"{number}.tar", "w") as tar:
            for row, image in enumerate(group):
                buffer = io.BytesIO()
                np.save(buffer, image)
                for suffix, data in ((".npy", buffer.getvalue()), (".txt", b"a red circle")):
                    info = tarfile.TarInfo(f"{row:05d}{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))

    def read(self, number: int) -> np.ndarray:
        images = []
        with tarfile.open(self._path / f"{number}.tar") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                if member.name.endswith(".npy"):
                    images.append(np.load(io.BytesIO(data)))
        return np.stack(images)


FORMATS: Mapping[str, Callable[[Path], Any]] = {  # Any: each has write and read
    "store": StoreFormat,
    "raw files": RawFiles,
    "PNG files": PngFiles,
    "torch.save": TorchFiles,
    "tar of npy": TarFiles,
    "store, durable": lambda path: StoreFormat(path, durable=True),
    "raw files, fsync": lambda path: RawFiles(path, durable=True),
}


def throughput(files: Any, groups: list[np.ndarray]) -> tuple[float, float]:
    """MiB/s of writing every group and of reading it back. Any: one of FORMATS."""
    mib = sum(group.nbytes for group in groups) / MIB
    written = seconds(lambda: [files.write(number, group) for number, group in enumerate(groups)])
    read = seconds(lambda: [files.read(number) for number in range(len(groups))])
    assert np.array_equal(files.read(0), groups[0])
    return mib / written, mib / read


def images(parent: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Write and read throughput of every format and image size."""
    for side, num in NUM_GROUPS.items():
        groups = [image_group(side, number) for number in range(num)]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMATS}
        for _ in range(repeats):
            for name, make in FORMATS.items():
                with folder(parent) as path:
                    found[name].append(throughput(make(path), groups))
        for name, pairs in found.items():
            write, read = (statistics.median(column) for column in zip(*pairs, strict=True))
            yield measure(f"write {side} px: {name}", write, "MiB/s", better="higher")
            yield measure(f"read {side} px: {name}", read, "MiB/s", better="higher")


def network(mib: int) -> dict[str, torch.Tensor]:
    """Tensors of the sizes that a UNet has, fp32, `mib` MiB in all."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    left = mib * MIB // 4
    for number in range(10**6):
        shape = ((320, 320, 3, 3), (320,), (1280, 1280), (1280,))[number % 4]
        size = min(left, int(np.prod(shape)))
        found[f"block{number}"] = torch.randn(size, generator=generator)
        left -= size
        if not left:
            break
    return found


def store_weights(store: Store, tensors: dict[str, torch.Tensor], number: int) -> tuple[float, float]:
    """Seconds to publish and to load."""
    saved = seconds(lambda: weights.publish(store, POLICY, number, tensors, {}))
    return saved, seconds(lambda: weights.open_version(store, POLICY, number).load())


def file_weights(
    path: Path, tensors: dict[str, torch.Tensor], save: Callable[..., object], load: Callable[..., object]
) -> tuple[float, float]:
    """Seconds to save and to load, every tensor copied out of the file as a learner needs it."""
    return seconds(lambda: save(tensors, path)), seconds(lambda: load(path))


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors in memory, not mapped from the file, as `Version.load` returns them."""
    return safetensors.torch.load(path.read_bytes())


def load_safetensors_mapped(path: Path) -> dict[str, torch.Tensor]:
    """By the library's own mapping of the file, every tensor then copied out of it."""
    return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}


def load_safetensors_checked(path: Path) -> dict[str, torch.Tensor]:
    """The same with the sha256 of the file, as Version.load checks."""
    data = path.read_bytes()
    hashlib.sha256(data).digest()
    return safetensors.torch.load(data)


def save_safetensors_durably(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """With what durable weights cost anyone: an fsync of the file."""
    safetensors.torch.save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def weights_files(parent: Path, repeats: int, mib: int) -> Iterator[dict[str, Any]]:
    """Save and load of weights against safetensors and torch.save."""
    tensors = network(mib)
    found: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, times: tuple[float, float]) -> None:
        found.setdefault(name, []).append(times)

    for _ in range(repeats):
        with folder(parent) as path:
            note("store", store_weights(open_store(str(path), create=True, durable=False), tensors, 0))
        with folder(parent) as path:
            note("store, durable", store_weights(open_store(str(path), create=True), tensors, 0))
        with folder(parent) as path:
            note("safetensors", file_weights(path / "w", tensors, safetensors.torch.save_file, load_safetensors))
            note("safetensors, fsync", file_weights(path / "f", tensors, save_safetensors_durably, load_safetensors))
            note(
                "safetensors, mapped",
                file_weights(path / "m", tensors, safetensors.torch.save_file, load_safetensors_mapped),
            )
            note(
                "safetensors, checked",
                file_weights(path / "c", tensors, safetensors.torch.save_file, load_safetensors_checked),
            )
            note(
                "torch.save",
                file_weights(path / "t", tensors, torch.save, lambda p: torch.load(p, weights_only=True)),
            )
    both: dict[str, float] = {}
    for name, times in found.items():
        save, load = (statistics.median(column) for column in zip(*times, strict=True))
        both[name] = statistics.median(sum(pair) for pair in times)
        yield measure(f"weights save {mib} MiB: {name}", save, "s", better="lower")
        yield measure(f"weights load {mib} MiB: {name}", load, "s", better="lower")
    for mine, other, aim in (
        ("store", "safetensors", 1.0),
        ("store", "safetensors, checked", 1.0),
        ("store, durable", "safetensors, fsync", 1.0),
        ("store", "safetensors, mapped", 1.0),
        ("store", "torch.save", 1.0),
    ):
        name = f"weights save + load: {mine} / {other}"
        yield measure(name, both[mine] / both[other], "ratio", better="lower", aim=aim)


def growth(parent: Path, largest: int) -> Iterator[dict[str, Any]]:
    """Cost of one operation in a store of N commits, N from 100 in tenfold steps."""
    per_commit: dict[int, float] = {}
    with folder(parent) as path:
        store = open_store(str(path), create=True, durable=False)
        number, size = 0, 100
        while size <= largest:
            spent = 0.0
            added = size - number
            for number in range(number, size):  # noqa: B020
                spent += seconds(lambda n=number: store.put("pairs", f"p{n:08d}", {}, {"n": n}))
            number = size
            opened = statistics.median(seconds(lambda: open_store(str(path))) for _ in range(5))
            listed = statistics.median(seconds(lambda: store.ids("pairs")) for _ in range(3))
            newest = statistics.median(
                seconds(lambda s=size: store.ids("pairs", after=f"p{s - 11:08d}")) for _ in range(3)
            )
            found = statistics.median(seconds(lambda s=size: store.has("pairs", f"p{s // 2:08d}")) for _ in range(20))
            swept = seconds(lambda: collect(store, grace_s=60, now=time.time()))
            per_commit[size] = listed / size
            yield measure(f"{size} commits: put one more", spent / added * 1e3, "ms", better="lower")
            yield measure(f"{size} commits: open", opened * 1e3, "ms", better="lower")
            yield measure(f"{size} commits: find one", found * 1e3, "ms", better="lower")
            yield measure(f"{size} commits: list all", listed * 1e3, "ms", better="lower")
            yield measure(f"{size} commits: list the newest 10", newest * 1e3, "ms", better="lower")
            yield measure(f"{size} commits: collect", swept * 1e3, "ms", better="lower")
            size *= 10
    name = f"list, time per commit: {max(per_commit)} commits / 1000 commits"
    yield measure(name, per_commit[max(per_commit)] / per_commit[1000], "ratio", better="lower", aim=1.5)


def packing(parent: Path, num: int) -> Iterator[dict[str, Any]]:
    """Reading what `num` old commits say, by a process that has just opened the store, before and after `compact`."""
    with folder(parent) as path:
        store = open_store(str(path), create=True, durable=False)
        old = replace(store, clock=lambda: time.time() - 2 * PACKED_AFTER_S)
        for number in range(num):
            old.put("people", f"p{number:08d}", {}, {"n": number})
        # In turns they cannot be: packing comes between. Each is the median of three openings.
        for how in ("by themselves", "packed"):
            spent = statistics.median(seconds(lambda: open_store(str(path)).commits("people")) for _ in range(3))
            yield measure(f"read {num} markers, {how}", spent * 1e3, "ms", better="lower")
            if how == "by themselves":
                took = seconds(lambda: compact(store.backend, now=time.time()))
                yield measure(f"pack {num} markers", took * 1e3, "ms", better="lower")


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
    }


@click.command()
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where to write the measures.")
@click.option("--dir", "parent", type=click.Path(path_type=Path), help="A folder on the disk to measure.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--weights-mib", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--largest", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Commits.")
def main(file: Path | None, parent: Path | None, repeats: int, weights_mib: int, largest: int) -> None:
    """Measure the store against plain files."""
    with folder(parent or Path(tempfile.gettempdir())) as place:
        measures = [
            *images(place, repeats),
            *weights_files(place, repeats, weights_mib),
            *growth(place, largest),
            *packing(place, largest // 10),
        ]
    table = Table("measure", "value", "unit", "aim")
    for row in measures:
        aim = "" if row["aim"] is None else f"{'<=' if row['better'] == 'lower' else '>='} {row['aim']:g}"
        table.add_row(row["name"], f"{row['value']:.4g}", row["unit"], aim)
    Console(width=100).print(table)
    if file is not None:
        names = ("torch", "safetensors", "zarr", "obstore", "numpy", "pillow")
        tree = {
            "measures": measures,
            "machine": machine(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        }
        file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
