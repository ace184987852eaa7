"""Providers: what each kind of OpenAI-compatible endpoint is, and the upstream that a configuration names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ..adapters.http_client import Origin
from ..errors import ConfigError
from ..log import printable


class AuthMode(StrEnum):
    CHATGPT = "chatgpt"
    API_KEY = "api_key"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Provider:
    """`auth_modes` are in order of preference; `base_url` is None where the operator must name it."""

    base_url: str | None
    auth_modes: tuple[AuthMode, ...]


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", (AuthMode.CHATGPT, AuthMode.API_KEY)),
    "osirus": Provider(None, (AuthMode.NONE, AuthMode.API_KEY)),
    "osirus_agent": Provider(None, (AuthMode.API_KEY,)),
    "ollama": Provider("http://127.0.0.1:11434/v1", (AuthMode.NONE,)),
    "vllm": Provider(None, (AuthMode.NONE, AuthMode.API_KEY)),
    "openai_compatible": Provider(None, (AuthMode.API_KEY, AuthMode.NONE)),
}


# No user, query or fragment: they have no meaning in a base URL, and a password would be shown.
_BASE_URL = re.compile(
    r"(https?)://(\[[0-9a-f]*:[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?)(?::([0-9]{1,5}))?(/[!-\"$->@-~]*)?",
    re.IGNORECASE,
)
# A path segment such as v1 or v1beta, wherever it stands.
_VERSION_SEGMENT = re.compile(r"/v[0-9]+[a-z0-9]*(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where model requests go. `path` is the base URL's path without a slash at its end."""

    origin: Origin
    path: str
    api_key: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """The values an operator gave, not yet judged together."""

    provider: str
    auth_mode: str | None
    base_url: str | None
    api_key: str | None
    model: str | None


def check_auth_mode(settings: ProviderSettings) -> AuthMode:
    """Return the auth mode in force; raise `ConfigError` when it does not fit the provider or its key."""
    provider = PROVIDERS[settings.provider]
    if settings.auth_mode is None:
        # A key for a provider that lists none is still sent: it was given for a reason.
        return AuthMode.API_KEY if settings.api_key else provider.auth_modes[0]
    mode = AuthMode(settings.auth_mode)
    if mode not in provider.auth_modes:
        allowed = " or ".join(provider.auth_modes)
        raise ConfigError(f"CODEX_AUTH_MODE={mode}: the provider {settings.provider} takes {allowed}.")
    if mode is AuthMode.API_KEY and not settings.api_key:
        raise ConfigError("CODEX_AUTH_MODE=api_key: CODEX_PROVIDER_API_KEY must hold the key.")
    return mode


def resolve_upstream(settings: ProviderSettings) -> Upstream | None:
    """Return the upstream, None when Codex uses its own sign-in and service; raise `ConfigError`."""
    mode = check_auth_mode(settings)
    base_url = settings.base_url or PROVIDERS[settings.provider].base_url
    if base_url is None:
        raise ConfigError(
            f"CODEX_PROVIDER_API_BASE_URL is not set: the provider {settings.provider} has no default address, "
            "expected one such as https://models.example.com/v1."
        )
    origin, path = parse_base_url(base_url)
    if mode is AuthMode.CHATGPT:
        return None
    return Upstream(origin, path, settings.api_key if mode is AuthMode.API_KEY else None, settings.model)


def parse_base_url(url: str) -> tuple[Origin, str]:
    """Split a base URL into origin and path, which gets /v1 where it names no version; raise `ConfigError`.

    The error does not show what stands before an @ or behind a ?: it may be a secret.
    """
    match = _BASE_URL.fullmatch(url)
    port = int(match[3]) if match and match[3] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        shown = printable(re.split(r"[?#]", url.rpartition("@")[2])[0])
        raise ConfigError(f"CODEX_PROVIDER_API_BASE_URL={shown}: expected http(s)://host[:port][/path].")
    scheme = match[1].lower()
    path = (match[4] or "").rstrip("/")
    if not _VERSION_SEGMENT.search(path):
        path += "/v1"
    return Origin(scheme, match[2].strip("[]").lower(), port or (443 if scheme == "https" else 80)), path
