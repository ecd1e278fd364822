"""Encoded prompts in memory-mapped files of one folder that all processes of a node share.

    <folder>/<encoder>/<sha256 of its prompts>.safetensors   at most 1,024 prompts: one row of each tensor is one prompt
    <folder>/<encoder>/lock                                  held by the one process that encodes

`encoder` is a hash of all that an encoded prompt depends on. A file is written beside its place, flushed and renamed,
so it is whole or not there. While one process encodes, others that need prompts of the same encoder wait for it, and
then read what it wrote. A lock ends with the process that holds it.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from itercomp_rl.diffusion.policy import Conditioning
from itercomp_rl.files.whole import replacing

log = logging.getLogger(__name__)

NUM_IN_A_FILE = 1024  # prompts, so that a process that is killed has not encoded all in vain
UNUSED_S = 14 * 86400.0  # files that nobody opened for so long are deleted
FREE_SHARE = 0.05  # of the disk, that is left free
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # of the safetensors format
_FIELDS = tuple(field.name for field in fields(Conditioning))


class NoRoomError(OSError):
    """The disk has too little room for what is to be written."""


def digest_of(prompt: str) -> str:
    """Return the SHA-256 hex digest by which a file identifies a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


class PromptFiles:
    """The files of one encoder. Raises: OSError from every method if the folder cannot be used."""

    def __init__(self, folder: Path, encoder: str) -> None:
        self._folder = folder / encoder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._opened: dict[Path, Any] = {}  # Any: safetensors' handles have no types
        self._places: dict[str, tuple[Path, int]] = {}  # of a prompt's digest: the file and the row

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process encodes, and keep others waiting meanwhile."""
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file ends the lock

    def look(self) -> None:
        """Find what has been written since."""
        for path in sorted(self._folder.glob("*.safetensors")):
            if path in self._opened:
                continue
            try:
                file = safe_open(path, framework="pt")
                prompts = json.loads((file.metadata() or {})["prompts"])
            except (SafetensorError, KeyError, ValueError) as error:
                log.warning("%s is damaged (%s): its prompts are encoded again", path, error)
                path.unlink(missing_ok=True)
                continue
            os.utime(path)
            self._opened[path] = file
            self._places |= {prompt: (path, row) for row, prompt in enumerate(prompts)}

    def __contains__(self, prompt: str) -> bool:
        return digest_of(prompt) in self._places

    def read(self, prompt: str) -> Conditioning:
        """The encoding of a prompt that is there, copied into memory of its own, with one row."""
        path, row = self._places[digest_of(prompt)]
        file = self._opened[path]
        return Conditioning(**{name: file.get_slice(name)[row : row + 1] for name in file.keys()})  # noqa: SIM118

    def write(self, prompts: Sequence[str], rows: Iterator[Conditioning]) -> None:
        """Write a file of prompts, whose encodings of one row come in the same order and are not all in memory.

        To be called under the lock. Raises: NoRoomError before anything is written.
        """
        self._tidy()
        digests = [digest_of(prompt) for prompt in prompts]
        name = hashlib.sha256("".join(digests).encode()).hexdigest()
        first = next(rows)
        found = {name: getattr(first, name) for name in _FIELDS}
        tensors: dict[str, Tensor] = {name: tensor for name, tensor in found.items() if tensor is not None}
        header, places = _header(tensors, digests)
        self._check_room(len(header) + sum(tensor.nbytes for tensor in tensors.values()) * len(prompts))
        with replacing(self._folder / f"{name}.safetensors", durable=True) as path, path.open("wb") as file:
            file.write(header)
            _put(file, tensors, places, 0)
            for row, encoded in enumerate(rows, start=1):
                _put(file, {name: getattr(encoded, name) for name in tensors}, places, row)
        self.look()

    def _check_room(self, num_bytes: int) -> None:
        disk = shutil.disk_usage(self._folder)
        if disk.free < num_bytes + FREE_SHARE * disk.total:
            raise NoRoomError(f"{num_bytes / 2**30:.1f} GiB are needed, and {disk.free / 2**30:.1f} are free")

    def _tidy(self) -> None:
        """Delete what a killed process left half-written, and files of any encoder that nobody uses any more."""
        for left in self._folder.glob(".*.new"):  # nobody else writes here while the lock is held
            left.unlink(missing_ok=True)
        for path in self._folder.parent.glob("*/*.safetensors"):
            try:
                if time.time() - path.stat().st_mtime > UNUSED_S:
                    path.unlink()
            except FileNotFoundError:
                continue


def _header(tensors: dict[str, Tensor], digests: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    """The begin of a safetensors file of so many rows, and where in the file each tensor's first row goes."""
    entries: dict[str, Any] = {"__metadata__": {"prompts": json.dumps(digests)}}
    end, begins = 0, dict[str, int]()
    # The widest numbers first, so that every tensor begins at a multiple of its own.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        begins[name] = end
        end += tensor.nbytes * len(digests)
        shape = [len(digests), *tensor.shape[1:]]
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [begins[name], end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + begin for name, begin in begins.items()}


def _put(file: BinaryIO, tensors: dict[str, Tensor], places: dict[str, int], row: int) -> None:
    for name, tensor in tensors.items():
        file.seek(places[name] + row * tensor.nbytes)
        file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())
