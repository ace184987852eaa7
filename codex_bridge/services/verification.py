"""Verification instead of belief: tries a provider and a model, and says which execution class is good for what.

A report is a table of evidence. It holds for one combination of provider, address and model; `auto` goes by it, and
it outlives a restart.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from .. import log
from ..adapters.http_client import HttpClient
from ..errors import Conflict, InvalidJson, StoreFailed
from ..limits import MAX_VERIFICATIONS
from ..model import new_id, now_ms
from ..protocol import json_codec
from ..providers import WireApi
from ..runtime import ExecutionClass, Runtime
from ..store import meta
from .backend import AUTO, Backend
from .device_auth import DeviceAuth
from .gateway import Gateway
from .probes import Finding, Probes
from .sandbox import SandboxCheck
from .trial import Trial

if TYPE_CHECKING:
    from ..adapters.database import Database

Json = dict[str, Any]
OnProgress = Callable[[Json], None]
_META = "verifications"
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


class Verification:
    """Makes reports, and keeps them. `backend` returns the configuration in force."""

    def __init__(
        self,
        runtime: Runtime,
        gateway: Gateway,
        client: HttpClient,
        sandbox: SandboxCheck,
        device_auth: DeviceAuth,
        database: Database,
        backend: Callable[[], Backend],
    ) -> None:
        self._runtime = runtime
        self._gateway = gateway
        self._client = client
        self._sandbox = sandbox
        self._device_auth = device_auth
        self._database = database
        self._backend = backend
        self._directory = ""
        # By what they are about; the newest last.
        self._reports: dict[str, Json] = {}
        self._is_running = False

    def open(self, directory: str) -> None:
        """Use the scratch directory `directory`."""
        self._directory = directory

    async def load(self) -> None:
        """Remember what a bridge before has found."""
        text = await self._database.read(meta.get(_META))
        try:
            self._reports = json_codec.decode((text or "{}").encode())
        except InvalidJson as problem:
            log.warning("what earlier verifications have found is damaged: %s", problem.message)

    def report(self, backend: Backend) -> Json | None:
        """Return what is known of a backend."""
        return self._reports.get(_subject(backend))

    def class_of(self, backend: Backend) -> ExecutionClass:
        """Return the class that a turn is played by: the one chosen, else the best one found, else Codex's own tools."""
        chosen = backend.settings.execution_class
        if chosen != AUTO:
            return ExecutionClass(chosen)
        report = self.report(backend)
        return ExecutionClass((report or {}).get("best_class") or ExecutionClass.NATIVE_TOOLS)

    def describe(self, backend: Backend) -> Json:
        """Return `verification` of `/runtime/info`."""
        report = self.report(backend)
        classes = report["classes"] if report else {}
        return {
            "execution_class": self.class_of(backend),
            "classes": {name: classes.get(name, _untried(name)) for name in ExecutionClass},
            "running": self._is_running,
            "report": report,
        }

    def check_free(self) -> None:
        """Raise `Conflict` while a verification runs: a second one would ask the same."""
        if self._is_running:
            raise Conflict("A verification is running already.", code="verification_running")

    async def verify(self, on_progress: OnProgress, *, keep: bool = True) -> Json:
        """Try the backend in force, step by step; return the report, which is stored where it is to `keep`.

        Raises `Conflict` while another one runs.
        """
        self.check_free()
        self._is_running = True
        try:
            backend = self._backend()
            run = _Run(self, backend, on_progress)
            report = await run.play()
        finally:
            self._is_running = False
        # A provider that is away for a moment says nothing against what was found before.
        if keep and (report["best_class"] is not None or self.report(backend) is None):
            await self._keep(_subject(backend), report)
        return report

    async def _keep(self, subject: str, report: Json) -> None:
        self._reports.pop(subject, None)
        self._reports[subject] = report
        while len(self._reports) > MAX_VERIFICATIONS:
            del self._reports[next(iter(self._reports))]
        try:
            await self._database.commit(meta.set(_META, json_codec.encode(self._reports).decode()))
        except StoreFailed as problem:
            log.warning("the verification is not kept over a restart: %s", problem.message)

    # What a run needs of it.

    def probes(self, backend: Backend) -> Probes | None:
        """Return what asks the backend's upstream, None where Codex uses its own service."""
        if backend.route is None:
            return None
        return Probes(self._client, backend.route, backend.settings.default_model)

    async def try_class(self, backend: Backend, execution_class: ExecutionClass) -> tuple[Finding, bool]:
        """Play the edit under a class; return what was found, and whether the model used tools at all."""
        mode = "workspace-write" if self._sandbox.is_wanted else "danger-full-access"
        obstacle = await self._sandbox.find_obstacle(mode)
        if obstacle is None and backend.route is None:
            obstacle = await self._device_auth.find_obstacle()
        if obstacle is not None:
            return Finding(False, obstacle.message), False
        session_id = new_id("verify")
        trial = Trial(self._runtime, self._directory, session_id, mode)
        route = None
        if backend.route is not None:
            wire_api = backend.settings.wire_api
            route = self._gateway.open(session_id, backend.route, lambda usage: None, wire_api=wire_api)
        try:
            result = await trial.play(execution_class, backend.settings.default_model, route)
        finally:
            told = self._gateway.last_failure(session_id)
            self._gateway.close(session_id)
        if not result.finding.is_ok and told is not None:
            return Finding(False, f"The turn failed: {told.message}"), result.acted
        return result.finding, result.acted


class _Run:
    """One verification while it runs."""

    def __init__(self, owner: Verification, backend: Backend, on_progress: OnProgress) -> None:
        self._owner = owner
        self._backend = backend
        self._on_progress = on_progress
        self._rows: list[Json] = []
        self._ok: dict[str, bool] = {}
        self._classes: dict[str, Json] = {}

    async def play(self) -> Json:
        """Take all steps; return the report."""
        begun = time.monotonic()
        probes = self._owner.probes(self._backend)
        if probes is not None:
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
            finding, acted = await self._owner.try_class(self._backend, name)
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


def _subject(backend: Backend) -> str:
    """Return what a report is about; the key is no part of it."""
    told = backend.to_json()
    fields = ("runtime_provider", "auth_mode", "provider_api_base_url", "default_model", "provider_wire_api")
    return json_codec.encode([told[name] for name in fields]).decode()


def _untried(name: str) -> Json:
    """Return what is said of a class before anything is known: Codex's own tools are what the others are measured by."""
    readiness = None if name == ExecutionClass.NATIVE_TOOLS else Readiness.EXPERIMENTAL
    return {"readiness": readiness, "evidence": "Not verified yet: POST /runtime/verify tries it."}


def _ms_since(begun: float) -> int:
    return int((time.monotonic() - begun) * 1000)
