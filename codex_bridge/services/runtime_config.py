"""The runtime configuration: which provider, model and workspace new turns use. A host may change it at any time.

A change is judged as a whole before anything of it applies. A session may bring a choice of its own, laid over
the bridge's. What a turn has begun with, it ends with: it holds a `Backend`, which never changes. Keys are held
in memory alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from .. import log
from ..config import SETTINGS
from ..errors import ConfigError, Conflict, InvalidField
from ..limits import MAX_CHOICE_CHARACTERS, MAX_HIDDEN_KEYS
from ..providers import PROVIDERS
from ..values import replace
from ..workspace.paths import WorkspaceRoots
from .backend import AUTO, Backend, ProviderSettings, check_key, parse_base_url, resolve_backend
from .live import LiveSession

# The fields of a choice of backend, and those of the settings (config, ProviderSettings) that they stand for.
CHOICE_FIELDS = {
    "runtime_provider": "provider",
    "auth_mode": "auth_mode",
    "provider_api_base_url": "base_url",
    "provider_api_key": "api_key",
    "default_model": "default_model",
    "execution_class": "execution_class",
    "provider_wire_api": "wire_api",
}
# What belongs to one endpoint. A choice of another endpoint must not send it there.
_OF_ENDPOINT: Mapping[str, Any] = {
    "auth_mode": None,
    "base_url": None,
    "api_key": None,
    "default_model": None,
    "execution_class": AUTO,
    "wire_api": AUTO,
}
_ROWS = {setting.field: setting for setting in SETTINGS}
# Those that always have a value: null does not reset them.
_REQUIRED = frozenset({"provider", "execution_class", "wire_api"})

Choice = Mapping[str, Any]


class RuntimeConfig:
    """The configuration in force. `backend` is what new turns use that brought no choice of their own."""

    def __init__(self, settings: ProviderSettings, roots: WorkspaceRoots) -> None:
        try:
            self.backend = resolve_backend(settings)
            check_key(settings)
        except InvalidField as problem:
            raise ConfigError(_in_words_of_environment(problem)) from None
        self._roots = roots
        # The keys that were in force last: a turn may still use one, and an upstream repeat it in an error.
        self._keys: deque[str | None] = deque()
        self._hide(settings.api_key)

    def update(self, body: Mapping[str, Any]) -> list[str]:
        """Apply the fields of `POST /runtime/config`; return the names of those whose value changed.

        Raises `InvalidField`; nothing has changed then.
        """
        choice = parse_choice({name: value for name, value in body.items() if name != "workspace_root"})
        old = self.backend.settings
        settings = replace(old, **choice)
        backend = resolve_backend(settings)
        # A key may be taken away at any time: what then cannot work says so itself.
        if "auth_mode" in choice:
            check_key(settings)
        changed = [
            name for name, field in CHOICE_FIELDS.items() if getattr(old, field) != getattr(settings, field)
        ]
        if "workspace_root" in body:
            if body["workspace_root"] is None:
                raise InvalidField("workspace_root", "workspace_root: expected an absolute path.")
            root = self._roots.choose(body["workspace_root"])
            if root != self._roots.default:
                changed.append("workspace_root")
            self._roots.default = root
        self._hide(settings.api_key)
        self.backend = backend
        return changed

    def bind(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return a session's choice with the endpoint that its key was given for: the key must not follow another."""
        if not choice.get("api_key") or "provider" in choice or "base_url" in choice:
            return choice
        now = self.backend.settings
        return {
            "provider": now.provider,
            "base_url": now.base_url,
            "default_model": now.default_model,
            **choice,
        }

    def backend_of(self, choice: Choice) -> Backend:
        """Return what a session with this choice uses now; raise `InvalidField`."""
        if not choice:
            return self.backend
        base = self.backend.settings
        if "provider" in choice or "base_url" in choice:
            base = replace(base, **_OF_ENDPOINT)
        settings = replace(base, **choice)
        backend = resolve_backend(settings)
        if "auth_mode" in choice:
            check_key(settings)
        return backend

    def backend_of_session(self, live: LiveSession) -> Backend:
        """Return what a session uses now; raise `InvalidField`, or `Conflict` when its key is gone."""
        if live.lacks_key:
            raise Conflict(
                "The session's own provider key was held in memory, and is gone with the bridge that held it: "
                "create the session anew with its key.",
                code="provider_key_lost",
            )
        return self.backend_of(live.choice)

    def auth_state(self) -> tuple[str, bool]:
        """Return the auth mode in force, and whether there is a provider's key."""
        return self.backend.auth_mode, self.backend.settings.api_key is not None

    def _hide(self, key: str | None) -> None:
        if self._keys and self._keys[-1] == key:
            return
        log.hide(key)
        self._keys.append(key)
        if len(self._keys) > MAX_HIDDEN_KEYS:
            log.forget(self._keys.popleft())

    def to_json(self) -> dict[str, Any]:
        """Return `runtime_config`; the key is not in it."""
        return {**self.backend.to_json(), "workspace_root": self._roots.default}


def parse_choice(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a JSON object chooses; raise `InvalidField`.

    null and "" stand for the default, and take a key away.
    """
    choice: dict[str, Any] = {}
    for name, value in body.items():
        field = CHOICE_FIELDS.get(name)
        if field is None:
            raise InvalidField(
                name, f"{name[:80]}: there is no such field here; expected: {', '.join(CHOICE_FIELDS)}."
            )
        choice[field] = _parse_value(name, field, value)
    return choice


def _parse_value(name: str, field: str, value: Any) -> Any:
    if value in (None, "") and field not in _REQUIRED:
        return None
    row = _ROWS[field]
    try:
        if not isinstance(value, str) or len(value) > MAX_CHOICE_CHARACTERS:
            raise ValueError
        if field == "base_url":
            parse_base_url(value)
        return row.parse(value)
    except ValueError:
        raise InvalidField(name, f"{name}: expected {row.expected}.") from None


def describe_providers() -> list[dict[str, Any]]:
    """Return the table of providers, in recommended order."""
    return [
        {
            "name": name,
            "label": provider.label,
            "default_base_url": provider.base_url,
            "auth_modes": list(provider.auth_modes),
            "speaks": list(provider.speaks),
        }
        for name, provider in PROVIDERS.items()
    ]


def _in_words_of_environment(problem: InvalidField) -> str:
    """Return an error's sentence with the settings' variables in place of the fields."""
    message = problem.message
    for name, field in CHOICE_FIELDS.items():
        message = message.replace(name, _ROWS[field].variables[0])
    return message
