"""Encoded prompts on a node: one process encodes, the others read, and what a killed one left does not count."""

import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from itercomp_rl.diffusion import prompt_files
from itercomp_rl.diffusion.encoded import EncodedPrompts, encoder_key, load_with_encoded_prompts
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.policy import Conditioning, Policy

CPU = torch.device("cpu")
PROMPTS = ["a red cup", "the dog on a box", "a cat"]


def loaded(model: Path, prompts: list[str], encoded: EncodedPrompts, dtype: str = "fp32") -> Policy:
    return load_with_encoded_prompts(model, prompts, encoded, dtype=dtype, device=CPU, resolution_px=16)


def equal(one: Conditioning, other: Conditioning) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Conditioning)]
    return all(torch.equal(a, b) if a is not None else b is None for a, b in pairs)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_second_process_encodes_nothing_and_reads_the_same_bits(
    dtype: str, folders: dict[str, Path], family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second, alone = EncodedPrompts(tmp_path), EncodedPrompts(tmp_path), EncodedPrompts()
    loaded(folders[family], PROMPTS, first, dtype)
    assert "encoded 4 prompts" in caplog.text  # and the empty one
    caplog.clear()
    policy = loaded(folders[family], PROMPTS[::-1], second, dtype)
    assert "encoded" not in caplog.text
    assert policy.pipeline.text_encoder is None
    loaded(folders[family], PROMPTS, alone, dtype)
    for one in (first, second):
        assert equal(one.of(PROMPTS, CPU), alone.of(PROMPTS, CPU))
    assert len(files(tmp_path)) == 1


def test_processes_that_begin_together_encode_once(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    each = [EncodedPrompts(tmp_path) for _ in range(3)]
    model = folders["sd"]
    # Threads stand for the processes, and share one policy: checkpoints are not to be loaded in several threads.
    policy = load_policy(model, dtype="fp32", resolution_px=16)

    def encode(encoded: EncodedPrompts) -> None:
        texts = [*PROMPTS, ""]
        with encoded.to_encode(model, texts, dtype="fp32", device=CPU, resolution_px=16) as missing:
            if missing:
                encoded.add(policy, missing)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(encode, each))
    assert [record.getMessage() for record in caplog.records if "encoded" in record.getMessage()] == [
        "encoded 4 prompts"
    ]
    assert len({tuple(encoded.of(PROMPTS, CPU).tokens.flatten().tolist()) for encoded in each}) == 1


def test_prompts_that_come_later_are_added_and_other_processes_find_them(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    early, late = EncodedPrompts(tmp_path), EncodedPrompts(tmp_path)
    loaded(folders["sd"], PROMPTS[:1], early)
    loaded(folders["sd"], PROMPTS, late)
    assert len(files(tmp_path)) == 2
    loaded(folders["sd"], PROMPTS, early)
    assert len(files(tmp_path)) == 2
    assert equal(early.of(PROMPTS, CPU), late.of(PROMPTS, CPU))


def test_other_encoders_precision_or_size_have_files_of_their_own(folders: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(folders["sdxl"], tmp_path / "sdxl")

    def key(dtype: str = "fp32", resolution_px: int = 16) -> str:
        return encoder_key(model, tmp_path, dtype=dtype, device=CPU, resolution_px=resolution_px)

    first = key()
    assert key() == first
    found = {first, key(dtype="bf16"), key(resolution_px=32)}
    network = model / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({n: 2 * t for n, t in load_file(network).items()}, network, metadata={"format": "pt"})
    assert key() == first  # what encodes no text does not count
    encoder = model / "text_encoder_2" / "model.safetensors"
    save_file({n: 2 * t for n, t in load_file(encoder).items()}, encoder, metadata={"format": "pt"})
    os.utime(encoder, ns=(0, 0))
    assert len(found | {key()}) == 4


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_a_file_that_is_damaged_and_one_that_was_never_finished_are_made_again(
    cut: int, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = EncodedPrompts(tmp_path)
    loaded(folders["sd"], PROMPTS, first)
    expected = first.of(PROMPTS, CPU)
    [path] = files(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:cut])
    left = path.with_name(f".{path.name}.1.new")
    left.write_bytes(whole[:100])
    again = EncodedPrompts(tmp_path)
    loaded(folders["sd"], PROMPTS, again)
    assert "is damaged" in caplog.text
    assert equal(again.of(PROMPTS, CPU), expected)
    assert path.read_bytes() == whole
    assert not left.exists()


def test_without_room_each_process_keeps_them_in_memory_and_says_so(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prompt_files, "FREE_SHARE", 1.0)  # of the disk, to be left free
    encoded = EncodedPrompts(tmp_path)
    loaded(folders["sd"], PROMPTS, encoded)
    assert "are kept in the memory of each process" in caplog.text and "TMPDIR" in caplog.text
    assert len(encoded.of(PROMPTS, CPU)) == 3
    assert files(tmp_path) == []


def test_files_that_nobody_uses_are_deleted_and_those_in_use_stay(folders: dict[str, Path], tmp_path: Path) -> None:
    loaded(folders["sd"], PROMPTS[:1], EncodedPrompts(tmp_path))
    loaded(folders["sd"], PROMPTS[:1], EncodedPrompts(tmp_path), dtype="bf16")
    [one, other] = files(tmp_path)
    long_ago = time.time() - prompt_files.UNUSED_S - 1
    for path in (one, other):
        os.utime(path, (long_ago, long_ago))
    fp32 = EncodedPrompts(tmp_path)
    loaded(folders["sd"], PROMPTS[:1], fp32)  # opened again, so in use
    loaded(folders["sd"], PROMPTS, fp32)
    assert len({one, other} & set(files(tmp_path))) == 1
    assert len(fp32.of(PROMPTS, CPU)) == 3


def test_a_file_holds_many_prompts_and_a_long_list_is_several(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itercomp_rl.diffusion.encoded.NUM_IN_A_FILE", 4)
    texts = [f"prompt number {i}" for i in range(9)]
    encoded, alone = EncodedPrompts(tmp_path), EncodedPrompts()
    loaded(folders["flux"], texts, encoded)
    loaded(folders["flux"], texts, alone)
    assert len(files(tmp_path)) == 3  # of 10, with the empty prompt
    assert equal(encoded.of(texts[::-1], CPU), alone.of(texts[::-1], CPU))
