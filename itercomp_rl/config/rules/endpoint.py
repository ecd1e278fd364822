"""The address of an endpoint in a config: one that can be opened, without a secret in it, by a proxy that works."""

import re
from urllib.parse import urlsplit

from itercomp_rl.config.rules.terms import require
from itercomp_rl.errors import ConfigError
from itercomp_rl.network.proxies import proxy_of
from itercomp_rl.store.address import secret_part


def check_endpoint(key: str, url: str) -> None:
    """Raises: ConfigError that names `key`.url for an address that is none, holds a secret, or needs a broken proxy."""
    check_address(f"{key}.url", url, f"give the address alone, and the key by the environment variable {key}.key_env")


def check_address(key: str, url: str, way_out: str) -> None:
    """Check the address `url` that setting `key` holds.

    Args: way_out: the end of the message about a secret in the address.
    Raises: ConfigError as `check_endpoint` does.
    """
    _check_url(key, url)
    if part := secret_part(url):
        raise ConfigError(f"{key} holds {part}, which would be written to config.yaml and to messages: {way_out}")
    try:
        proxy_of(url)
    except ConfigError as error:
        raise ConfigError(f"{key} needs a proxy, and {error}") from error


def _check_url(key: str, url: str) -> None:
    """Raises: ConfigError for what httpx could not open, or would open as something else."""
    import httpx  # here: few configs name an endpoint, and all of them must be checked fast

    try:
        parts = urlsplit(url)
        is_address = (
            parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", url)
        )
        why = "must be an address such as http://localhost:8000/v1"
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        is_address, why = False, f"must be an address such as http://localhost:8000/v1 ({error})"
    require(bool(is_address), key, url or None, why)
