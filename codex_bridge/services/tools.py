"""Tools that a host runs in a session's workspace, outside of any turn.

The host owns permissions here, so nobody is asked; the session's sandbox mode holds. What runs ends with its session,
and with the bridge.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import BridgeError, CodexFailed, Conflict, Draining, NotFound, Unavailable
from ..limits import BUSY_RETRY_AFTER_S, MAX_HOST_TOOLS
from ..protocol.tools import ToolResult
from ..runtime import OnOutput
from ..workspace.paths import is_unmoved
from ..workspace.place import Place
from ..workspace.tools import Tools
from .live import LiveSession
from .sandbox import SandboxCheck
from .turn_player import MOVED

_READ_ONLY, _UNSANDBOXED = "read-only", "danger-full-access"


class HostTools:
    """Runs the tools, a bounded number at once."""

    def __init__(self, tools: Tools, sandbox: SandboxCheck) -> None:
        self._tools = tools
        self._sandbox = sandbox
        # What runs, by its task: the session, and why it is ended before its time.
        self._running: dict[asyncio.Task[Any], str] = {}
        self._reasons: dict[asyncio.Task[Any], BridgeError] = {}
        self._is_stopped = False

    @property
    def is_busy(self) -> bool:
        """Whether a tool runs."""
        return bool(self._running)

    async def check(self, live: LiveSession, name: str) -> None:
        """Raise what speaks against running a tool now."""
        self._check_free(live)
        session = live.session
        if not is_unmoved(session.workspace_root):
            raise Conflict(MOVED.message, code=MOVED.code)
        mode = _sandbox_mode(name, session.sandbox_mode)
        obstacle = await self._sandbox.find_obstacle(mode) if mode is not None else None
        if obstacle is not None:
            status = 503 if obstacle.code == "sandbox_unavailable" else CodexFailed.status
            raise CodexFailed(obstacle.message, code=obstacle.code, status=status)

    def _check_free(self, live: LiveSession) -> None:
        if self._is_stopped:
            raise Draining()
        if live.is_deleted:
            raise NotFound(f"There is no session {live.session.id!r}.", code="session_not_found")
        if len(self._running) >= MAX_HOST_TOOLS:
            raise Unavailable(
                f"The bridge is busy: {len(self._running)} tools run. Try again later.",
                code="busy",
                headers=(("Retry-After", str(BUSY_RETRY_AFTER_S)),),
            )

    async def run(
        self, live: LiveSession, name: str, arguments: dict[str, Any], on_output: OnOutput | None = None
    ) -> ToolResult:
        """Run a tool with checked input, after a `check`. It ends with whoever waits for it."""
        task = asyncio.current_task()
        assert task is not None
        self._check_free(live)  # all else has been looked at just now
        place = Place(live.session.workspace_root, live.session.sandbox_mode)
        self._running[task] = live.session.id
        try:
            return await self._tools.run(name, arguments, place, on_output)
        except asyncio.CancelledError:
            reason = self._reasons.get(task)
            if reason is None:
                raise
            task.uncancel()
            raise reason from None
        finally:
            del self._running[task]
            self._reasons.pop(task, None)

    def end_session(self, live: LiveSession) -> None:
        """End what runs in a session that is deleted."""
        gone = NotFound("The session was deleted, and the tool ended with it.", code="session_not_found")
        for task in [task for task, session_id in self._running.items() if session_id == live.session.id]:
            self._end(task, gone)

    async def drain(self) -> None:
        """Return when no tool runs any more."""
        while self._running:
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        """End what runs, and take no more."""
        self._is_stopped = True
        for task in self._running:
            self._end(task, Draining())
        await self.drain()

    def _end(self, task: asyncio.Task[Any], reason: BridgeError) -> None:
        self._reasons[task] = reason
        task.cancel()


def _sandbox_mode(name: str, session_mode: str) -> str | None:
    """Return the mode of the sandbox that a tool needs, None for those that the bridge does by itself."""
    if name == "run_command":
        return session_mode
    if name.startswith("git_"):  # it only looks
        return session_mode if session_mode == _UNSANDBOXED else _READ_ONLY
    return None
