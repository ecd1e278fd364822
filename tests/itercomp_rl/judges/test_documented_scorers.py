"""The class and the server of docs/extend/judge.md score alike, and a config may name both as the page says."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from itercomp_rl.config.load import load_config
from itercomp_rl.items import Prompt
from itercomp_rl.judges.reward import RewardScorer
from itercomp_rl.reward.frozen import FrozenReward

DOCS = Path(__file__).resolve().parents[3] / "docs"
CPU = torch.device("cpu")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the page's two files, on the path that Python imports from."""
    page = (DOCS / "extend" / "judge.md").read_text(encoding="utf-8")
    for name in ("sharpness.py", "serve_sharpness.py"):
        found = re.search(rf"```python\n# {re.escape(name)}\n(.*?)```", page, re.DOTALL)
        assert found is not None
        (tmp_path / name).write_text(found[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_pages_class_and_server_give_the_same_score(written: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(written / "serve_sharpness.py"), str(port)], stderr=subprocess.DEVNULL
    )
    try:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (8 + i, 12, 3), dtype=np.uint8) for i in range(3)]
        prompts = [Prompt(id=str(i), text="a cat", aspects=("attribute", "spatial")) for i in range(3)]
        sources = {"attribute": "python:sharpness:Sharpness", "spatial": f"http://127.0.0.1:{port}"}
        found = RewardScorer(sources, CPU).score(prompts, images)  # tries again until the server is up
    finally:
        server.terminate()
        server.wait()
    assert [one["attribute"].value for one in found] == pytest.approx([one["spatial"].value for one in found], rel=1e-5)


def test_the_pages_class_can_be_climbed(written: Path) -> None:
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    FrozenReward("key", "python:sharpness:Sharpness", CPU).prepared(["a cat"])(image).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_the_example_config_of_the_judges_page_is_one(tmp_path: Path) -> None:
    page = (DOCS / "judges.md").read_text(encoding="utf-8").partition("## Fixed scorers")[2]
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "example.yaml").write_text(
        found[1].replace("judge: t2i_compbench", "judge: oracle")
    )  # that needs spaCy
    config = load_config(tmp_path / "example.yaml")
    assert config.policy.frozen_rewards["taste"].target == 1.0
    assert config.evaluation.metrics == {"hps": "hpsv2"}
