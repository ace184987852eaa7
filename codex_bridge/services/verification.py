"""Verification instead of belief: tries a provider and a model, and says which execution class is good for what.

A report is a table of evidence. It holds for one combination of provider, address and model; `auto` goes by it, and
it outlives a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from .. import log
from ..errors import Conflict, Draining, InvalidJson, StoreFailed
from ..limits import CLOSE_GRACE_S, MAX_VERIFICATIONS
from ..protocol import json_codec
from ..runtime import ExecutionClass
from ..store import meta
from .backend import AUTO, Backend

if TYPE_CHECKING:
    from ..adapters.database import Database

Json = dict[str, Any]
OnProgress = Callable[[Json], None]
_META = "verifications"
# What is said of the classes that the bridge plays itself before they were tried.
_UNTRIED = "experimental"


class Verification:
    """Keeps reports. `try_backend` makes one; `backend` returns the configuration in force."""

    def __init__(
        self,
        try_backend: Callable[[Backend, OnProgress], Coroutine[Any, Any, Json]],
        database: Database,
        backend: Callable[[], Backend],
    ) -> None:
        self._try_backend = try_backend
        self._database = database
        self._backend = backend
        # By what they are about; the newest last.
        self._reports: dict[str, Json] = {}
        self._running: asyncio.Task[Json] | None = None
        self._is_stopped = False

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
            "running": self._running is not None,
            "report": report,
        }

    def check_free(self) -> None:
        """Raise `Conflict` while a verification runs, since a second one would ask the same; `Draining` when none may."""
        if self._is_stopped:
            raise Draining
        if self._running is not None:
            raise Conflict("A verification is running already.", code="verification_running")

    async def verify(self, on_progress: OnProgress, *, keep: bool = True) -> Json:
        """Try the backend in force, step by step; return the report, which is stored where it is to `keep`.

        Raises `Conflict` while another one runs, and `Draining` when the bridge ends.
        """
        self.check_free()
        backend = self._backend()
        self._running = asyncio.create_task(self._try_backend(backend, on_progress), name="verification")
        try:
            report = await self._running
        except asyncio.CancelledError:
            if self._is_stopped:
                raise Draining from None
            raise
        finally:
            self._running = None
        # A provider that is away for a moment says nothing against what was found before.
        if keep and (report["best_class"] is not None or self.report(backend) is None):
            await self._keep(_subject(backend), report)
        return report

    async def stop(self) -> None:
        """End what runs, and take no more."""
        self._is_stopped = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running], timeout=CLOSE_GRACE_S)

    async def _keep(self, subject: str, report: Json) -> None:
        self._reports.pop(subject, None)
        self._reports[subject] = report
        while len(self._reports) > MAX_VERIFICATIONS:
            del self._reports[next(iter(self._reports))]
        try:
            await self._database.commit(meta.set(_META, json_codec.encode(self._reports).decode()))
        except StoreFailed as problem:
            log.warning("the verification is not kept over a restart: %s", problem.message)


def _subject(backend: Backend) -> str:
    """Return what a report is about; the key is no part of it."""
    told = backend.to_json()
    fields = ("runtime_provider", "auth_mode", "provider_api_base_url", "default_model", "provider_wire_api")
    return json_codec.encode([told[name] for name in fields]).decode()


def _untried(name: str) -> Json:
    """Return what is said of a class before anything is known: Codex's own tools are what the others are measured by."""
    readiness = None if name == ExecutionClass.NATIVE_TOOLS else _UNTRIED
    return {"readiness": readiness, "evidence": "Not verified yet: POST /runtime/verify tries it."}
