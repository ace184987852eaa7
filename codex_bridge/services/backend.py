"""The backend that a choice of provider, address, key and model names: where model requests go, and how they sign in."""

from __future__ import annotations

import re
from typing import Any

from ..adapters.http_client import Origin
from ..errors import InvalidField
from ..log import printable
from ..providers import PROVIDERS, AuthMode
from ..runtime import ExecutionClass
from ..values import value

# Leaves a choice to what is found out.
AUTO = "auto"
# No user, query or fragment: they have no meaning in a base URL, and a password would be shown.
_BASE_URL = re.compile(
    r"(https?)://(\[[0-9a-f]*:[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?)(?::([0-9]{1,5}))?(/[!-\"$->@-~]*)?",
    re.IGNORECASE,
)
# A path segment such as v1 or v1beta, wherever it stands.
_VERSION_SEGMENT = re.compile(r"/v[0-9]+[a-z0-9]*(?:/|\Z)")


@value
class Upstream:
    """Where model requests go. `path` is the base URL's path without a slash at its end."""

    origin: Origin
    path: str
    api_key: str | None


@value
class ProviderSettings:
    """What was chosen, not yet judged together. `None` stands for the provider's or Codex's own default."""

    provider: str
    auth_mode: str | None
    base_url: str | None
    api_key: str | None
    default_model: str | None
    execution_class: str = AUTO
    wire_api: str = AUTO


@value
class Backend:
    """Settings that fit together: where turns and `/v1` go, and how they sign in.

    `route` is where Codex's model requests are sent, None when Codex uses its own sign-in and service;
    `upstream` is where `/v1` leads, None when there is no key to lend.
    """

    settings: ProviderSettings
    auth_mode: AuthMode
    route: Upstream | None
    upstream: Upstream | None

    def to_json(self) -> dict[str, Any]:
        """Return what may be told of it: all but the key."""
        settings = self.settings
        return {
            "runtime_provider": settings.provider,
            "auth_mode": self.auth_mode,
            "provider_api_base_url": settings.base_url or PROVIDERS[settings.provider].base_url,
            "has_provider_api_key": settings.api_key is not None,
            "default_model": settings.default_model,
            "execution_class": settings.execution_class,
            "provider_wire_api": settings.wire_api,
        }


def resolve_backend(settings: ProviderSettings) -> Backend:
    """Judge settings together; raise `InvalidField` that names the field of `POST /runtime/config`."""
    mode = resolve_auth_mode(settings)
    base_url = settings.base_url or PROVIDERS[settings.provider].base_url
    if base_url is None:
        raise InvalidField(
            "provider_api_base_url",
            f"provider_api_base_url is not set: the provider {settings.provider} has no default address, "
            "expected one such as https://models.example.com/v1.",
        )
    origin, path = parse_base_url(base_url)
    # A key is lent to the provider that it was given for, and to one that takes none not at all.
    upstream = Upstream(origin, path, None if mode is AuthMode.NONE else settings.api_key)
    if mode is not AuthMode.CHATGPT:
        return Backend(settings, mode, upstream, upstream)
    if settings.execution_class not in (AUTO, ExecutionClass.NATIVE_TOOLS):
        raise InvalidField(
            "execution_class",
            f"execution_class={settings.execution_class}: with auth_mode=chatgpt Codex calls its own service, so "
            "expected auto or native_tools.",
        )
    return Backend(settings, mode, None, upstream if settings.api_key else None)


def resolve_auth_mode(settings: ProviderSettings) -> AuthMode:
    """Return the auth mode in force; raise `InvalidField` when the provider does not take it."""
    modes = PROVIDERS[settings.provider].auth_modes
    if settings.auth_mode is None:
        return AuthMode.API_KEY if settings.api_key and AuthMode.API_KEY in modes else modes[0]
    mode = AuthMode(settings.auth_mode)
    if mode not in modes:
        raise InvalidField(
            "auth_mode",
            f"auth_mode={mode}: the provider {settings.provider} takes only {' or '.join(modes)}.",
        )
    return mode


def check_key(settings: ProviderSettings) -> None:
    """Refuse a sign-in by key that was asked for without one."""
    if settings.auth_mode == AuthMode.API_KEY and settings.api_key is None:
        raise InvalidField("provider_api_key", "provider_api_key: auth_mode=api_key expects the key with it.")


def parse_base_url(url: str) -> tuple[Origin, str]:
    """Split a base URL into origin and path, which gets /v1 where it names no version; raise `InvalidField`.

    The error does not show what stands before an @ or behind a ?: it may be a secret.
    """
    match = _BASE_URL.fullmatch(url)
    port = int(match[3]) if match and match[3] else None
    if match is None or (port is not None and not 1 <= port <= 65535) or not _is_host(match[2]):
        shown = printable(re.split(r"[?#]", url.rpartition("@")[2])[0])
        raise InvalidField(
            "provider_api_base_url", f"provider_api_base_url={shown}: expected http(s)://host[:port][/path]."
        )
    scheme = match[1].lower()
    path = (match[4] or "").rstrip("/")
    if not _VERSION_SEGMENT.search(path):
        path += "/v1"
    return Origin(scheme, match[2].strip("[]").lower(), port or (443 if scheme == "https" else 80)), path


def _is_host(name: str) -> bool:
    """Say whether what stands in brackets is an IPv6 address; other names are judged when they are looked up."""
    if not name.startswith("["):
        return True
    from ipaddress import IPv6Address  # late: few base URLs have one

    try:
        IPv6Address(name[1:-1])
    except ValueError:
        return False
    return True
