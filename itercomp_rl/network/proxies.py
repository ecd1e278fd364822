"""The proxy that the environment names for an address, checked before a client stumbles over it.

httpx makes a connection pool for every proxy variable as a client opens, also for those that the address does not
need. One of them that it cannot serve ends the client with an ImportError or ValueError that names no variable.
"""

import importlib.util
import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from itercomp_rl.errors import ConfigError

SOCKS = ("socks5", "socks5h")
SCHEMES = ("http", "https", *SOCKS)


def proxy_of(url: str) -> str | None:
    """The proxy for this URL: <scheme>_PROXY or ALL_PROXY unless NO_PROXY covers the host.

    Raises: ConfigError that names the variable if that proxy cannot be used.
    """
    parts, proxies = urlsplit(url), getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    if not proxies.get(scheme) or _is_bypassed(parts.hostname or "", parts.port):
        return None
    return _checked(scheme, proxies[scheme], f"set NO_PROXY={parts.hostname} where no proxy is needed for it")


def check_all_proxies() -> None:
    """Raises: ConfigError that names the variable of a proxy that cannot be used; the hub's client opens them all."""
    proxies = getproxies()
    if _is_bypassed("", None):
        return
    for scheme in ("http", "https", "all"):
        if proxies.get(scheme):
            _checked(
                scheme, proxies[scheme], "unset it, or set HF_HUB_OFFLINE=1 where the hub's files are here already"
            )


def _is_bypassed(host: str, port: int | None) -> bool:
    hosts = [entry.strip() for entry in getproxies().get("no", "").split(",")]
    bare = [entry.strip("[]") for entry in hosts]  # [::1]
    return "*" in hosts or (bool(host) and (host in bare or bool(proxy_bypass(f"{host}:{port}" if port else host))))


def _checked(scheme: str, proxy: str, way_out: str) -> str:
    """The proxy with its scheme."""
    address = proxy if "://" in proxy else f"http://{proxy}"
    name = _variable(scheme)
    try:
        parts = urlsplit(address)
        shown = f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")  # no password
    except ValueError as error:
        raise ConfigError(f"the environment variable {name} is no address of a proxy: {error}; {way_out}") from error
    if parts.scheme not in SCHEMES or not parts.hostname:
        socks = f"write socks5://{shown.partition('://')[2]} there, or " if parts.scheme.startswith("socks") else ""
        raise ConfigError(
            f"the environment variable {name} is {shown!r}: a proxy must begin with "
            f"{', '.join(f'{known}://' for known in SCHEMES)} and name a host; {socks}{way_out}"
        )
    if parts.scheme in SOCKS and importlib.util.find_spec("socksio") is None:
        raise ConfigError(
            f"the environment variable {name} is {shown!r}, and SOCKS needs a package that is not installed: "
            f"pip install 'httpx[socks]', or {way_out}"
        )
    return address


def _variable(scheme: str) -> str:
    """The name as it is set here; lower case counts before upper case."""
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), names[1])
