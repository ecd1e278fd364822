"""The images of a run with their captions, for other software: PNG files with JSON lines, or tars as webdataset has."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.whole import appearing
from itercomp_rl.store.store import Store

FORMATS = ("png", "tar")
METADATA = "metadata.jsonl"  # the name that Hugging Face datasets looks for beside images


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedImage:
    """One image and its facts: ExportedImage(key="base-00000-00003", png=b"...", facts={"text": "a red ..."})."""

    key: str
    png: bytes
    facts: dict[str, Any]  # JSON


def export_images(store: Store, kind: str, folder: Path, form: str) -> int:
    """Write every image of a kind (images, evaluations) into a new folder; returns how many.

    png: one file per image and `metadata.jsonl` with file_name, text and the rest. tar: one tar per store segment with
    KEY.png, KEY.txt and KEY.json for each image. The folder appears under its name when it is whole.
    Raises: ConfigError if the folder exists or the store has no such images.
    """
    if form not in FORMATS:
        raise ConfigError(f"format is {form!r}: must be one of {', '.join(FORMATS)}")
    if folder.exists():
        raise ConfigError(f"{folder} exists: name a new folder, nothing is written over")
    ids = store.ids(kind)
    if not ids:
        raise ConfigError(f"store {store.url} holds no {kind}: nothing was drawn yet, or kind is wrong")
    write = _write_pngs if form == "png" else _write_tar
    with appearing(folder) as partial:
        partial.mkdir()
        return sum(write(partial, id_, _samples(store, kind, id_)) for id_ in ids)


def _samples(store: Store, kind: str, id_: str) -> Iterator[ExportedImage]:
    record = store.get(kind, id_)
    attrs = {name: record.attrs[name] for name in ("round", "model", "checkpoint", "policy_version", "num_steps")}
    rows = zip(record.arrays["images"], record.arrays["seeds"].tolist(), record.attrs["prompts"], strict=True)
    for row, (image, seed, prompt) in enumerate(rows):
        facts = {"text": prompt["text"], "prompt": prompt["id"], "aspects": prompt["aspects"], "seed": seed, **attrs}
        yield ExportedImage(key=f"{id_}-{row:05d}", png=png_of(image), facts=facts)


def png_of(image: np.ndarray) -> bytes:
    """The PNG file of an image [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _write_pngs(folder: Path, id_: str, samples: Iterator[ExportedImage]) -> int:
    count = 0
    with (folder / METADATA).open("a", encoding="utf-8") as lines:
        for sample in samples:
            name = f"{sample.key}.png"
            (folder / name).write_bytes(sample.png)
            lines.write(json.dumps({"file_name": name, **sample.facts}, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_tar(folder: Path, id_: str, samples: Iterator[ExportedImage]) -> int:
    count = 0
    with tarfile.open(folder / f"{id_}.tar", "w") as tar:
        for sample in samples:
            document = json.dumps(sample.facts, ensure_ascii=False).encode()
            for suffix, data in (("png", sample.png), ("txt", sample.facts["text"].encode()), ("json", document)):
                info = tarfile.TarInfo(f"{sample.key.replace('.', '_')}.{suffix}")  # a key ends at its first dot
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            count += 1
    return count
