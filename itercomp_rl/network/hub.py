"""Files of the Hugging Face hub: every fetch fails with a CheckpointError that says why, whatever the client raises."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.network.proxies import check_all_proxies

HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>.+)")  # how a setting names a file of a repository


def fetch_file(repo: str, file: str) -> Path:
    """A file of a repository, from the cache or fetched into it.

    Raises: CheckpointError if the hub does not give it; ConfigError for a proxy that cannot be used.
    """
    # Imported here: a local folder, the usual case, must not pay for the hub client.
    from huggingface_hub import hf_hub_download

    with _named(repo, file):
        return Path(hf_hub_download(repo, file))


def repository_files(repo: str) -> frozenset[str] | None:
    """The names of a repository's files; None where the hub does not list them, or the client is offline.

    Raises: ConfigError for a proxy that cannot be used.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    check_reach(repo)
    try:
        return frozenset(HfApi().list_repo_files(repo))
    except (_http_error(), HFValidationError, OfflineModeIsEnabled):
        return None


def check_file(repo: str, file: str) -> None:
    """Raises: as fetch_file, without fetching the file."""
    from huggingface_hub import hf_hub_download

    with _named(repo, file):
        hf_hub_download(repo, file, dry_run=True)


def check_reach(source: str | Path) -> None:
    """Whether the hub's client can open for a model that is no local folder or file.

    To call before a library's from_pretrained.
    Raises: ConfigError that names the model and the proxy variable that is in the way.
    """
    from huggingface_hub import constants

    if Path(source).exists() or constants.HF_HUB_OFFLINE:
        return
    try:
        check_all_proxies()
    except ConfigError as error:
        raise ConfigError(f"{source} is to be fetched from the hub, and {error}") from error


@contextmanager
def _named(repo: str, file: str) -> Iterator[None]:
    """Names repository and file in whatever the hub's client raises."""
    from huggingface_hub.errors import HFValidationError

    http_error = _http_error()
    check_reach(f"{repo}:{file}")
    what = f"{repo}:{file} could not be fetched from the hub; give the file or folder here instead"
    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(f"{what}: {repo} is neither a folder here nor a hub id like 'owner/name'") from error
    except (http_error, OSError, ValueError) as error:
        raise CheckpointError(f"{what}: {error}") from error


def _http_error() -> type[Exception]:
    """What the client's HTTP library raises: httpx or httpx2, by its version; the hub's own error derives from it."""
    from huggingface_hub.errors import HfHubHTTPError

    http_error = HfHubHTTPError.__mro__[1]
    assert issubclass(http_error, Exception)
    return http_error
