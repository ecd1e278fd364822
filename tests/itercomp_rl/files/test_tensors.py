"""Whether a file of tensors is whole is told by its header and length, and a damaged header by its file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.tensors import check_whole, read_tensors


def test_a_whole_file_passes_and_holds_what_was_saved(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.zeros(0)}
    save_file(tensors, tmp_path / "m.safetensors")
    torch.save(tensors, tmp_path / "m.pt")
    check_whole(tmp_path / "m.safetensors")
    for name in ("m.safetensors", "m.pt"):
        found = read_tensors(tmp_path / name)
        assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize("offsets", [[0, None], [0, "x"], [0], "ab", 4, None])
def test_a_header_that_says_no_offsets_is_damaged(tmp_path: Path, offsets: object) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"m\.safetensors has a damaged header"):
        check_whole(tmp_path / "m.safetensors")


def test_an_entry_is_read_in_place_of_the_whole_checkpoint_the_preferred_first(tmp_path: Path) -> None:
    one, two = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    torch.save({"model": one, "ema": two, "step": 3}, tmp_path / "m.pth")
    assert torch.equal(read_tensors(tmp_path / "m.pth", entries=("ema", "model"))["w"], two["w"])
    assert torch.equal(read_tensors(tmp_path / "m.pth", entries=("model",))["w"], one["w"])
    with pytest.raises(CheckpointError, match=r"m\.pth is not a flat dict of tensors, nor has it an entry 'state'"):
        read_tensors(tmp_path / "m.pth", entries=("state",))
