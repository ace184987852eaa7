"""One verification: the steps by which a provider and a model are tried, and the report on what they have shown."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from ..adapters.http_client import HttpClient
from ..model import new_id, now_ms
from ..providers import WireApi
from ..runtime import ExecutionClass, Runtime
from ..values import value
from .backend import AUTO, Backend
from .device_auth import DeviceAuth
from .gateway import Gateway
from .probes import Finding, Probes
from .sandbox import SandboxCheck
from .trial import Trial

Json = dict[str, Any]
# The steps that show an API by which Codex may reach the provider, by the `wire_api` that is configured.
_CODEX_STEPS = {
    AUTO: ("responses", "chat"),
    WireApi.RESPONSES: ("responses",),
    WireApi.CHAT_COMPLETIONS: ("chat",),
}


class Readiness(StrEnum):
    """How good an execution class is: an edit was made; it speaks the class's way, but made none; or neither."""

    VERIFIED = "verified"
    EXPERIMENTAL = "experimental"
    UNSUPPORTED = "unsupported"


@value
class Means:
    """What a verification is made with; `directory` is where scratch workspaces are made."""

    runtime: Runtime
    gateway: Gateway
    client: HttpClient
    sandbox: SandboxCheck
    device_auth: DeviceAuth
    directory: str


class VerificationRun:
    """One verification while it runs. `on_progress` is told each step when it begins, and its row when it has ended."""

    def __init__(self, means: Means, backend: Backend, on_progress: Callable[[Json], None]) -> None:
        self._means = means
        self._backend = backend
        self._on_progress = on_progress
        self._rows: list[Json] = []
        self._ok: dict[str, bool] = {}
        self._classes: dict[str, Json] = {}

    async def play(self) -> Json:
        """Take all steps; return the report."""
        begun = time.monotonic()
        route, model = self._backend.route, self._backend.settings.default_model
        if route is not None:  # else Codex uses its own service
            probes = Probes(self._means.client, route, model)
            await self._probe("models", probes.list_models)
            await self._probe("responses", probes.speak_responses)
            await self._probe("chat", probes.speak_chat)
            if self._ok["chat"]:
                await self._probe("chat_tools", probes.call_tool)
        for execution_class in ExecutionClass:
            await self._try(execution_class, self._find_obstacle(execution_class))
        return {
            "provider": self._backend.settings.provider,
            "auth_mode": self._backend.auth_mode,
            "provider_api_base_url": self._backend.to_json()["provider_api_base_url"],
            "model": self._backend.settings.default_model,
            "verified_at": now_ms(),
            "duration_ms": _ms_since(begun),
            "checks": self._rows,
            "classes": self._classes,
            "best_class": self._best_class(),
            "wire_api": self._wire_api(),
        }

    async def _probe(self, name: str, ask: Callable[[], Awaitable[Finding]]) -> None:
        begun = self._begin(name)
        self._end(name, await ask(), begun)

    def _find_obstacle(self, name: ExecutionClass) -> str | None:
        """Say why a class cannot be tried."""
        settings = self._backend.settings
        if name is ExecutionClass.NATIVE_TOOLS:
            if self._backend.route is None or settings.default_model is None:
                return None  # Codex knows a service and a model of its own
            needed = _CODEX_STEPS[settings.wire_api]
        elif self._backend.route is None:
            return "Not tried: with Codex's own sign-in there is native_tools alone."
        else:
            needed = ("chat",)
        if any(self._ok[step] for step in needed):
            return None
        evidence = next(row["evidence"] for row in self._rows if row["step"] == needed[0])
        return f"Not tried, since the step {needed[0]} failed: {evidence}"

    async def _try(self, name: ExecutionClass, obstacle: str | None) -> None:
        begun, acted = self._begin(name), False
        if obstacle is None:
            finding, acted = await self._play_trial(name)
        else:
            finding = Finding(False, obstacle)
        if name is ExecutionClass.BRIDGE_TOOLS and obstacle is None:
            read = "What the model wrote was read as a call."
            unread = "Nothing that the model wrote was read as a call."
            self._end("text_protocol", Finding(acted, read if acted else unread), begun)
        readiness = Readiness.UNSUPPORTED
        if finding.is_ok:
            readiness = Readiness.VERIFIED
        elif obstacle is None and (acted or self._speaks(name)):
            readiness = Readiness.EXPERIMENTAL
        self._classes[name] = {"readiness": readiness, "evidence": finding.evidence}
        self._end(name, finding, begun, readiness=readiness)

    async def _play_trial(self, execution_class: ExecutionClass) -> tuple[Finding, bool]:
        """Play the edit under a class; return what was found, and whether the model used tools at all."""
        means, backend = self._means, self._backend
        mode = "workspace-write" if means.sandbox.is_wanted else "danger-full-access"
        trouble = await means.sandbox.find_obstacle(mode)
        if trouble is None and backend.route is None:
            trouble = await means.device_auth.find_obstacle()
        if trouble is not None:
            return Finding(False, trouble.message), False
        session_id = new_id("verify")
        trial = Trial(means.runtime, means.directory, session_id, mode)
        route = None
        if backend.route is not None:
            wire_api = backend.settings.wire_api
            route = means.gateway.open(session_id, backend.route, lambda usage: None, wire_api=wire_api)
        try:
            result = await trial.play(execution_class, backend.settings.default_model, route)
        finally:
            told = means.gateway.last_failure(session_id)
            means.gateway.close(session_id)
        if not result.finding.is_ok and told is not None:
            return Finding(False, f"The turn failed: {told.message}"), result.acted
        return result.finding, result.acted

    def _speaks(self, name: ExecutionClass) -> bool:
        """Say whether the model is known to speak what a class needs, also where it made no edit."""
        if name is ExecutionClass.NATIVE_TOOLS:
            needed = _CODEX_STEPS[self._backend.settings.wire_api]
            can_call = "chat" in needed and self._ok.get("chat_tools", False)
            return can_call or ("responses" in needed and self._ok.get("responses", False))
        return name is ExecutionClass.MODEL_TOOLS and self._ok.get("chat_tools", False)

    def _begin(self, name: str) -> float:
        self._on_progress({"step": name, "status": "running"})
        return time.monotonic()

    def _end(self, name: str, finding: Finding, begun: float, **more: Any) -> None:
        self._ok[name] = finding.is_ok
        row = {
            "step": name,
            "status": "ok" if finding.is_ok else "failed",
            "evidence": finding.evidence,
            "duration_ms": _ms_since(begun),
            **more,
        }
        self._rows.append(row)
        self._on_progress(row)

    def _best_class(self) -> ExecutionClass | None:
        """Return the first verified class, else the first that may work."""
        for wanted in (Readiness.VERIFIED, Readiness.EXPERIMENTAL):
            for name in ExecutionClass:
                if self._classes[name]["readiness"] is wanted:
                    return name
        return None

    def _wire_api(self) -> str | None:
        if self._ok.get("responses"):
            return "responses"
        return "chat_completions" if self._ok.get("chat") else None


def _ms_since(begun: float) -> int:
    return int((time.monotonic() - begun) * 1000)
