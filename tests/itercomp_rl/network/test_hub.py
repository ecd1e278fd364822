"""Fetches from the hub end with an error that names the file, whatever the hub's client stumbles over."""

from pathlib import Path

import pytest

from itercomp_rl.diffusion.checkpoint import check_checkpoint
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.forecast.model_sizes import architecture
from itercomp_rl.network.hub import check_reach, fetch_file
from itercomp_rl.reward.source import check_reward_source


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty one, and a hub where nobody listens."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("proxy", ["socks://campus:1080", "http://web:port"])
def test_a_proxy_in_the_way_is_named_with_the_model(
    proxy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    for fetch in (check_checkpoint, architecture, check_reach):
        with pytest.raises(ConfigError, match=r"owner/name.*is to be fetched from the hub, and .* all_proxy is"):
            fetch("owner/name")
    with pytest.raises(ConfigError, match="all_proxy is"):
        check_reward_source("reward.trunk", "owner/name:file.pt")
    check_reach(tmp_path)  # a folder needs no hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_reach("owner/name")


@pytest.mark.slow  # the hub's client waits between its tries
@pytest.mark.usefixtures("cache")
def test_a_proxy_or_hub_that_is_not_there_is_a_checkpoint_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("UNUSED", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
        with pytest.raises(CheckpointError, match=r"owner/name:vae/x\.json could not be fetched from the hub"):
            fetch_file("owner/name", "vae/x.json")
        with pytest.raises(CheckpointError, match=r"reward\.trunk is 'owner/name:x\.pt', which the hub does not give"):
            check_reward_source("reward.trunk", "owner/name:x.pt")


def test_what_is_no_hub_id_is_refused_unasked() -> None:
    with pytest.raises(CheckpointError, match="is neither a folder here nor a hub id like 'owner/name'"):
        fetch_file("a/b/c", "model_index.json")
