"""From a run to folders for others, and to a Hub that is a real HTTP server on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file

from cluster.export import export_run, push
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.lora import Lora, add_lora
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.report.model_card import Licence
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store

REPORT = {
    "aspect": "attribute",
    "version": 0,
    "accuracy": 0.75,
    "num_pairs": 40,
    "mean": 0.1,
    "std": 1.5,
    "weight": 1.0,
}
OTHER = Licence(id="other", name="test-licence", link="https://example.org/licence")


@pytest.fixture
def run(tmp_path: Path) -> tuple[Config, Store]:
    """A run that published one round: an adapter on the shipped base, one reward model, and its scores."""
    config = load_config("tiny", [f"run.dir={tmp_path}", "policy.lora.rank=2", "policy.lora.alpha=6"])
    store = open_store(config.store_url, create=True)
    policy = load_policy(checkpoint_path(config.policy.model))
    lora = Lora(rank=2, alpha=6.0, targets=policy.family.lora_targets)
    add_lora(policy, lora)
    generator = torch.Generator().manual_seed(0)
    adapter = {
        name: torch.randn(p.shape, generator=generator) * 0.1
        for name, p in policy.trainable.named_parameters()
        if p.requires_grad
    }
    attrs = {"rewards": {"attribute": REPORT}, "updates": 4, "lora": lora.tree()}
    attrs["frozen_rewards"] = {"taste": {"source": "aesthetic", "weight": 0.3, "target": None, "mean": 5.0, "std": 0.5}}
    weights.publish(store, "policy", 0, adapter, attrs)
    trunk = load_reward(Path(checkpoint_path(config.reward.trunk)))
    weights.publish(store, "reward-attribute", 0, trunk.state_dict(), {"report": REPORT})
    score = {"mean": 0.5, "se": 0.02, "n": 123}
    tree = {"aspects": {"attribute": {"base": score | {"mean": 0.25}, "rounds": [score]}}}
    tree["held_out_prompts"] = {"prompts": 40, "trained_on": 2, "example": "a red cup"}
    (config.run_folder / "results.json").write_text(json.dumps(tree))
    return config, store


def test_an_exported_run_is_a_pipeline_an_adapter_reward_models_and_a_card(
    run: tuple[Config, Store], tmp_path: Path
) -> None:
    config, store = run
    folder = export_run(config, store, tmp_path / "out", round_=1, licence=OTHER)
    DiffusionPipeline.from_pretrained(folder)
    base: Any = DiffusionPipeline.from_pretrained(checkpoint_path(config.policy.model))
    base.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    reward = load_reward(folder / "reward_models" / "attribute")
    trunk = load_reward(Path(checkpoint_path(config.reward.trunk)))
    assert all(torch.equal(t, reward.state_dict()[name]) for name, t in trunk.state_dict().items())
    card = (folder / "README.md").read_text()
    front, text = card.split("---\n")[1:3]
    assert 'license: "other"' in front
    assert 'license_name: "test-licence"' in front
    assert "base_model" not in front, "the shipped base is nothing that the Hub could link"
    for fact in ("embedded:base", "1 of 2, 4 updates", "75.0%", "| 40 |", "0.500 ± 0.020", "0.250 ± 0.020", "| 123 |"):
        assert fact in text, fact
    assert f"evaluation seed {config.evaluation.seed}" in text
    assert "The policy also climbed `aesthetic` as `taste`, with weight 0.3." in text
    assert "2 of 40 held-out prompts were trained on too, such as 'a red cup'" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_merged_in_fp32_though_it_learned_in_bf16_and_rounded_once(
    dtype: torch.dtype, run: tuple[Config, Store], tmp_path: Path
) -> None:
    config, store = run
    config = load_config("tiny", [f"run.dir={config.run.dir}", "policy.lora.rank=2", "policy.engine.dtype=bf16"])
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    folder = export_run(config, store, tmp_path / "out", round_=1, licence=OTHER, dtype=name)
    saved = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    base = load_policy(checkpoint_path(config.policy.model)).trainable.state_dict()
    adapter = weights.open_version(store, "policy", 0).load()
    merged = [key.replace(".lora_A.default", "") for key in adapter if ".lora_A." in key]
    assert len(merged) == len(adapter) / 2
    for key in merged:
        a, b = (adapter[key.replace(".weight", f".lora_{part}.default.weight")] for part in "AB")
        expected = base[key.replace(".base_layer", "")] + 6 / 2 * (b @ a)
        tight = 2**-8 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(saved[key].float(), expected, rtol=tight, atol=1e-6)
        assert saved[key].dtype == dtype
    assert (
        load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")["decoder.conv_in.weight"].dtype
        == torch.float32
    )


def test_a_round_that_was_not_evaluated_says_so(run: tuple[Config, Store], tmp_path: Path) -> None:
    config, store = run
    (config.run_folder / "results.json").unlink()
    folder = export_run(config, store, tmp_path / "out", round_=None, licence=OTHER)
    assert "has not been evaluated" in (folder / "README.md").read_text()


def test_a_round_that_is_not_there_and_a_folder_that_is_are_refused(run: tuple[Config, Store], tmp_path: Path) -> None:
    config, store = run
    with pytest.raises(ConfigError, match="--round is 2: published rounds of this run are 1"):
        export_run(config, store, tmp_path / "out", round_=2, licence=OTHER)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="written once"):
        export_run(config, store, tmp_path / "out", round_=1, licence=OTHER)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's HTTP interface as an upload of small files needs."""

    asked: list[tuple[str, bytes]]
    url: str
    status = 200

    def do_GET(self) -> None:
        self._answer({"id": "me/model", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, body))
        if self.path.endswith("/repos/create"):
            self._answer({"url": f"http://{self.headers['Host']}/me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        else:
            self._answer({"commitUrl": f"http://{self.headers['Host']}/me/model/commit/1", "commitOid": "1" * 40})

    def _answer(self, tree: dict[str, Any]) -> None:
        content = json.dumps(tree).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's server is silent."""


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    """The server's class, with what it was asked, while it serves."""

    class Fresh(Hub):
        asked: list[tuple[str, bytes]] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    Fresh.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_file_of_an_export_reaches_the_hub_in_one_commit(
    run: tuple[Config, Store], tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = run
    folder = export_run(config, store, tmp_path / "out", round_=1, licence=OTHER)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert push(folder, "me/model", private=True).endswith("me/model")
    created = next(json.loads(body) for path, body in hub.asked if path.endswith("/repos/create"))
    assert created["name"] == "model"
    assert created["visibility"] == "private"
    commits = [body for path, body in hub.asked if "/commit/" in path]
    assert len(commits) == 1
    sent = {json.loads(line)["value"]["path"] for line in commits[0].splitlines() if json.loads(line)["key"] == "file"}
    assert sent == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_of_preferences_reaches_the_hub_as_one(
    tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "r000-00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "set" / "README.md").write_text("# Preferences\n")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    push(tmp_path / "set", "me/preferences", private=False)
    created = next(json.loads(body) for path, body in hub.asked if path.endswith("/repos/create"))
    assert (created["name"], created["type"]) == ("preferences", "dataset")
    assert any("/datasets/me/preferences/commit/" in path for path, _ in hub.asked)


def test_a_refusal_of_the_hub_says_how_to_get_in(
    run: tuple[Config, Store], tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = run
    folder = export_run(config, store, tmp_path / "out", round_=1, licence=OTHER)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    hub.status = 401
    with pytest.raises(ConfigError, match="HF_TOKEN lets you in"):
        push(folder, "me/model", private=False)


def test_only_an_export_can_be_pushed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        push(tmp_path, "me/model", private=False)


def test_an_adapter_whose_strength_depends_on_the_loader_is_not_uploaded(
    run: tuple[Config, Store], tmp_path: Path
) -> None:
    config, store = run
    folder = export_run(config, store, tmp_path / "out", round_=1, licence=OTHER)
    path = folder / "pytorch_lora_weights.safetensors"
    metadata = {"lora_adapter_metadata": '{"unet.lora_alpha": 6.0, "unet.r": 2}'}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(CheckpointError, match="export the run again"):
        push(folder, "me/model", private=False)
