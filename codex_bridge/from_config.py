"""What a configuration means for the parts of a bridge: what is made of it, what it forbids, what is doubtful in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from . import config as settings
from . import log
from .adapters.http_client import HttpClient
from .adapters.http_server import is_loopback
from .config import Config
from .errors import ConfigError
from .limits import SHORT_TOKEN_CHARACTERS
from .model import Latitude
from .services.backend import ProviderSettings

NEVER = "never"


def make_client(config: Config) -> HttpClient:
    """Return the client for upstreams, with its time-outs and proxies."""
    proxies = settings.proxy_rules(config)
    for secret in proxies.secrets if proxies else ():
        log.hide(secret)
    return HttpClient(
        config.upstream_connect_timeout_ms / 1000,
        config.upstream_first_byte_timeout_ms / 1000,
        config.upstream_idle_timeout_ms / 1000,
        proxies,
    )


def check_bind(config: Config, sockets: Sequence[socket.socket] = ()) -> None:
    """Refuse to listen where others can reach without a token."""
    if config.token is not None:
        return
    hosts = {}
    if sockets:
        for listener in sockets:
            if listener.family is not socket.AF_UNIX:
                hosts[listener.getsockname()[0]] = f"LISTEN_FDS: {show_address(listener.getsockname())}"
    elif config.socket is None:
        hosts[config.host] = f"CODEX_BRIDGE_HOST={config.host}"
    for host, name in hosts.items():
        if not is_loopback(host):
            raise ConfigError(
                f"{name}: without CODEX_BRIDGE_TOKEN only loopback addresses are served, "
                "or anyone who can reach this address could run Codex here."
            )


def show_address(name: str | bytes | tuple[Any, ...]) -> str:
    """Return what a log shows of a socket's name: a URL, or where a unix socket is."""
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    path = os.fsdecode(name)
    return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"


def provider_settings(config: Config) -> ProviderSettings:
    return ProviderSettings(
        config.provider,
        config.auth_mode,
        config.base_url,
        config.api_key,
        config.default_model,
        config.execution_class,
        config.wire_api,
    )


def latitude(config: Config) -> Latitude:
    """Return what sessions may choose.

    With `never` nobody is asked, so nothing leaves the sandbox: that a person may allow it is more, not less.
    """
    policies = settings.APPROVAL_POLICIES[: settings.APPROVAL_POLICIES.index(config.approval_policy) + 1]
    modes = settings.SANDBOX_MODES[: settings.SANDBOX_MODES.index(config.sandbox_mode) + 1]
    return Latitude(policies[-1:] if config.approval_policy == NEVER else policies, modes)


def find_doubts(config: Config, auth_mode: str, sockets: Sequence[socket.socket]) -> list[str]:
    """Return what an operator may not have meant, a sentence each."""
    doubts = []
    if sockets and config.socket is not None:
        doubts.append("CODEX_BRIDGE_SOCKET is not used: the service manager has opened the sockets.")
    if config.token is not None and len(config.token) < SHORT_TOKEN_CHARACTERS:
        doubts.append(
            f"CODEX_BRIDGE_TOKEN is short enough to be guessed; {SHORT_TOKEN_CHARACTERS} characters are better."
        )
    if auth_mode == "chatgpt" and config.base_url is not None:
        doubts.append("CODEX_PROVIDER_API_BASE_URL is not used: without a key Codex uses its own sign-in.")
    if config.api_key is not None and auth_mode == "none" and config.auth_mode is None:
        doubts.append(f"CODEX_PROVIDER_API_KEY is not used: the provider {config.provider} takes no key.")
    if auth_mode == "api_key" and config.api_key is None:
        doubts.append(
            "CODEX_PROVIDER_API_KEY is not set, so requests go out without a key; "
            "CODEX_AUTH_MODE=none says that this is meant, where the provider takes it."
        )
    doubts += [
        f"The workspace {log.printable(root)} holds the bridge's own program: turns may change it, and it runs "
        "outside of the sandbox. CODEX_WORKSPACE_ROOT (or --workspace) can name another directory."
        for root in config.workspace_roots
        if config.sandbox_mode != settings.SANDBOX_MODES[0] and _holds_the_program(root)
    ]
    return doubts


def _holds_the_program(directory: str) -> bool:
    program = os.path.realpath(__file__)  # in the single file it begins with that file's path
    return program.startswith(directory.rstrip("/") + "/")


def shown_settings(config: Config) -> dict[str, Any]:
    """Return what `/runtime/info` tells of the settings that do not change while the bridge runs."""
    return {
        "runtime_kind": config.runtime_kind,
        "sandbox_mode": config.sandbox_mode,
        "approval_policy": config.approval_policy,
        "workspace_roots": list(config.workspace_roots),
    }
