"""Providers: the table of base URLs, the auth modes, the upstream of a configuration."""

import pytest

from codex_bridge.adapters.http_client import Origin
from codex_bridge.errors import InvalidField
from codex_bridge.providers import AuthMode
from codex_bridge.services.backend import (
    ProviderSettings,
    check_key,
    parse_base_url,
    resolve_auth_mode,
    resolve_backend,
)

URL = "https://models.example/v1"


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("http://127.0.0.1:11434/v1", Origin("http", "127.0.0.1", 11434), "/v1"),
        ("http://127.0.0.1:11434/v1/", Origin("http", "127.0.0.1", 11434), "/v1"),
        ("https://api.example", Origin("https", "api.example", 443), "/v1"),
        ("https://api.example/", Origin("https", "api.example", 443), "/v1"),
        ("http://api.example", Origin("http", "api.example", 80), "/v1"),
        ("HTTPS://API.Example/V", Origin("https", "api.example", 443), "/V/v1"),
        ("https://api.example:8443/openai/v1beta", Origin("https", "api.example", 8443), "/openai/v1beta"),
        ("https://api.example/v2/tenant/", Origin("https", "api.example", 443), "/v2/tenant"),
        ("https://api.example/vendor", Origin("https", "api.example", 443), "/vendor/v1"),
        ("http://[::1]:8000/v1", Origin("http", "::1", 8000), "/v1"),
        ("http://host:65535/v1", Origin("http", "host", 65535), "/v1"),
    ],
)
def test_a_base_url_is_split(url: str, origin: Origin, path: str) -> None:
    assert parse_base_url(url) == (origin, path)


@pytest.mark.parametrize(
    "url",
    [
        "abc", "", "//host/v1", "/v1", "host:80/v1", "ftp://host/v1", "file:///etc/passwd", "unix:/run/x", "http://",
        "http:///v1", "http://:80/v1", "http://host:abc/v1", "http://host:65536/v1", "http://host:-1/v1",
        "http://host:0/v1", "http://[::1/v1", "http://[bad]/v1", "http://[:::::]/v1", "http://host/v1?key=secret", "http://host/v1#secret",
        "http://user:secret@host/v1", "http://secret@host/v1", "http://:secret@host/v1", "http://user:secret@host:99999/v1",
        "http://ho st/v1", "http://host/a b", "http://host/a\r\nX: y/v1", "http://host/\u2026",
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_be_used_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_base_url(url)
    message = caught.value.message
    assert message.startswith("provider_api_base_url=")
    assert "expected" in message
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("origin", "authority", "text"),
    [
        (Origin("http", "h", 80), "h", "http://h"),
        (Origin("http", "h", 443), "h:443", "http://h:443"),
        (Origin("https", "h", 443), "h", "https://h"),
        (Origin("https", "::1", 8443), "[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_the_authority_of_an_origin(origin: Origin, authority: str, text: str) -> None:
    assert (origin.authority, str(origin)) == (authority, text)


def settings(
    provider: str, mode: str | None = None, key: str | None = None, url: str | None = URL
) -> ProviderSettings:
    return ProviderSettings(provider, mode, url, key, "model", "auto")


@pytest.mark.parametrize(
    ("provider", "mode", "key", "expected"),
    [
        ("openai", None, None, AuthMode.CHATGPT),
        ("openai", None, "k", AuthMode.API_KEY),
        ("openai", "chatgpt", "k", AuthMode.CHATGPT),
        ("openai", "api_key", "k", AuthMode.API_KEY),
        ("osirus", None, None, AuthMode.NONE),
        ("osirus", None, "k", AuthMode.API_KEY),
        ("osirus", "none", "k", AuthMode.NONE),
        ("osirus_agent", "api_key", "k", AuthMode.API_KEY),
        ("ollama", None, None, AuthMode.NONE),
        ("ollama", None, "k", AuthMode.NONE),
        ("ollama", "none", None, AuthMode.NONE),
        ("vllm", None, None, AuthMode.API_KEY),
        ("vllm", "api_key", "k", AuthMode.API_KEY),
        ("openai_compatible", None, "k", AuthMode.API_KEY),
        ("openai_compatible", "none", None, AuthMode.NONE),
        ("openai_compatible", "none", "k", AuthMode.NONE),
    ],
)
def test_the_auth_mode_in_force(provider: str, mode: str | None, key: str | None, expected: AuthMode) -> None:
    assert resolve_auth_mode(settings(provider, mode, key)) is expected


@pytest.mark.parametrize(
    ("provider", "mode"),
    [
        ("openai", "none"),
        ("osirus", "chatgpt"),
        ("osirus_agent", "none"),
        ("ollama", "chatgpt"),
        ("ollama", "api_key"),
        ("vllm", "chatgpt"),
        ("openai_compatible", "chatgpt"),
    ],
)
def test_an_auth_mode_that_does_not_fit_is_refused(provider: str, mode: str) -> None:
    with pytest.raises(InvalidField) as caught:
        resolve_auth_mode(settings(provider, mode, "k"))
    assert caught.value.details["field"] == "auth_mode"
    assert f"auth_mode={mode}: the provider {provider} takes" in caught.value.message


def test_a_sign_in_by_key_wants_the_key() -> None:
    check_key(settings("openai", "api_key", "k"))
    check_key(settings("openai_compatible", None, None))
    with pytest.raises(InvalidField) as caught:
        check_key(settings("openai", "api_key", None))
    assert caught.value.details["field"] == "provider_api_key"


def test_codexs_own_sign_in_needs_no_route() -> None:
    backend = resolve_backend(settings("openai", None, None, None))
    assert (backend.auth_mode, backend.route, backend.upstream) == (AuthMode.CHATGPT, None, None)


def test_a_key_beside_codexs_own_sign_in_serves_v1() -> None:
    backend = resolve_backend(settings("openai", "chatgpt", "k", None))
    assert backend.route is None
    assert backend.upstream is not None
    assert (str(backend.upstream.origin), backend.upstream.api_key) == ("https://api.openai.com", "k")


@pytest.mark.parametrize(
    ("provider", "url"),
    [("openai", "https://api.openai.com/v1"), ("ollama", "http://127.0.0.1:11434/v1")],
)
def test_a_provider_with_an_address_of_its_own(provider: str, url: str) -> None:
    backend = resolve_backend(settings(provider, None, "k" if provider == "openai" else None, None))
    assert backend.route is not None
    assert f"{backend.route.origin}{backend.route.path}" == url == backend.to_json()["provider_api_base_url"]


@pytest.mark.parametrize("provider", ["osirus", "osirus_agent", "vllm", "openai_compatible"])
def test_a_provider_without_one_must_be_given_it(provider: str) -> None:
    with pytest.raises(InvalidField) as caught:
        resolve_backend(settings(provider, None, "k", None))
    assert caught.value.details["field"] == "provider_api_base_url"


@pytest.mark.parametrize(
    ("provider", "mode", "key"),
    [("openai_compatible", "api_key", "k"), ("openai_compatible", "none", None), ("ollama", None, None)],
)
def test_the_key_goes_only_where_the_mode_says_so(provider: str, mode: str | None, key: str | None) -> None:
    backend = resolve_backend(settings(provider, mode, "k"))
    assert backend.route is not None
    assert backend.route.api_key == key
    assert backend.to_json()["has_provider_api_key"] is True
    assert "k" not in backend.to_json().values()
