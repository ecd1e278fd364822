"""Proxies of the environment: the one that serves an address, or an error that names the variable."""

import importlib.util

import pytest

from itercomp_rl.errors import ConfigError
from itercomp_rl.network.proxies import check_all_proxies, proxy_of

URL = "https://models.example/v1"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_a_url_has_the_proxy_of_its_scheme_before_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_of(URL) is None
    monkeypatch.setenv("ALL_PROXY", "socks5://campus:1080")
    monkeypatch.setenv("https_proxy", "web:3128")
    assert proxy_of(URL) == "http://web:3128"


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("localhost,127.0.0.1", "http://localhost:8000/v1"),
        ("localhost, 127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("::1", "http://[::1]:8000/v1"),
        (".example", URL),
        ("models.example", URL),
        ("*", URL),
    ],
)
def test_no_proxy_covers_a_host_however_bad_the_proxy(no_proxy: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://nowhere")
    with pytest.raises(ConfigError):
        proxy_of(url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_of(url) is None


@pytest.mark.parametrize(
    ("name", "proxy", "reason"),
    [
        ("all_proxy", "socks://127.0.0.1:1080", "all_proxy is 'socks://127.0.0.1:1080'.*write socks5://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://web", "HTTPS_PROXY is 'ftp://web': a proxy must begin with http://"),
        ("HTTPS_PROXY", "http://web:port", "HTTPS_PROXY is no address of a proxy: .*NO_PROXY=models.example"),
        ("HTTPS_PROXY", "http://", "and name a host"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_with_its_variable(
    name: str, proxy: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy)
    with pytest.raises(ConfigError, match=reason):
        proxy_of(URL)
    with pytest.raises(ConfigError, match="unset it"):
        check_all_proxies()


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="SOCKS works here")
def test_socks_without_its_package_says_what_to_install_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@campus:1080")
    with pytest.raises(
        ConfigError, match=r"ALL_PROXY is 'socks5://campus:1080'.*pip install 'httpx\[socks\]'"
    ) as error:
        proxy_of(URL)
    assert "secret" not in str(error.value)
