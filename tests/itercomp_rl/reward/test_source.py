"""A reward model that cannot be had is named before anything starts; the hub is a real HTTP server on this machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.checks import check_models
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import CheckpointError
from itercomp_rl.reward.checkpoint import export_reward, save_reward
from itercomp_rl.reward.source import check_reward_source
from tests.itercomp_rl.reward.test_checkpoint import tiny_model

KEY = "reward.trunk"


class Hub(BaseHTTPRequestHandler):
    """Knows one file of one repository."""

    def do_HEAD(self) -> None:
        is_there = self.path == "/owner/rewards/resolve/main/spatial.pt"
        self.send_response(200 if is_there else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "7")
        if not is_there:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's server is silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def test_folders_of_this_project_pass_saved_exported_and_shipped(tmp_path: Path) -> None:
    save_reward(tiny_model(), tmp_path / "saved")
    export_reward(tiny_model(), tmp_path / "exported")
    for source in (str(tmp_path / "saved"), str(tmp_path / "exported"), "embedded:trunk"):
        check_reward_source(KEY, source)


def test_what_is_no_reward_model_is_named_with_its_setting(tmp_path: Path) -> None:
    save_reward(tiny_model(), tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no weights")
    for source, reason in (
        (str(tmp_path / "cut"), "its header says"),
        (str(tmp_path / "empty"), "holds no reward model"),
        (str(tmp_path / "notes.txt"), "must end in"),
        (str(tmp_path / "nowhere"), "does not exist"),
        ("embedded:nothing", "not shipped"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            check_reward_source(KEY, source)


@pytest.mark.usefixtures("hub")
def test_a_file_of_the_hub_is_asked_for_and_not_fetched() -> None:
    check_reward_source(KEY, "owner/rewards:spatial.pt")
    with pytest.raises(
        CheckpointError, match=r"reward\.trunk is 'owner/rewards:colour\.pt', which the hub does not give"
    ):
        check_reward_source(KEY, "owner/rewards:colour.pt")


def test_a_config_that_names_one_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"reward\.trunk is .*nowhere"):
        check_models(load_config("quickstart", [f"reward.trunk={tmp_path}/nowhere"]))
    fixed = ["judge.first_round=reward", f"judge.reward_models.spatial={tmp_path}/nowhere"]
    fixed.append("evaluation.allow_self_grading=true")
    with pytest.raises(CheckpointError, match=r"judge\.reward_models\.spatial is .*nowhere"):
        check_models(load_config("quickstart", fixed))


@pytest.mark.parametrize("name", ["trunk", "conv_trunk", "generic_trunk"])
def test_the_shipped_trunks_are_reward_models(name: str) -> None:
    check_reward_source(KEY, f"embedded:{name}")
