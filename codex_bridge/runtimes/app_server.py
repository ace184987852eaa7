"""The app-server runtime: all sessions' turns on a supervised `codex app-server`.

A turn is given to the supervisor's current child. A thread that this child does not hold is resumed from Codex's
own files, so a conversation survives its child, and moves on to the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from .. import log
from ..errors import CodexFailed, Conflict
from ..limits import CALL_TIMEOUT_S, INTERRUPT_GRACE_S, SANDBOX_REST_S
from ..model import new_id
from ..protocol import codex, json_codec
from ..runtime import (
    AccountEvent,
    Ask,
    Command,
    CommandResult,
    Emit,
    Failure,
    OnOutput,
    TurnOutcome,
    TurnRequest,
    TurnStatus,
)
from ..values import replace
from ..workspace.scratch import keep_scratch
from .app_server_child import AppServerChild
from .app_server_command import SandboxCommand
from .app_server_run import Run
from .supervisor import Supervisor

_NOT_STEERABLE = "turn_not_steerable"


class AppServerRuntime:
    """Implements the ports `Runtime` and `Sandbox`. `command` is None when no Codex was found."""

    capabilities: Mapping[str, bool] = {
        "deltas": True, "diffs": True, "interrupt": True, "resume": True, "images": True,
        "background_commands": True, "approvals": True, "steer": True,
    }  # fmt: skip

    def __init__(
        self,
        command: str | None,
        environ: Mapping[str, str],
        interrupt_grace_s: float = INTERRUPT_GRACE_S,
    ) -> None:
        self._environ = environ
        self._interrupt_grace_s = interrupt_grace_s
        self._on_account_event: Callable[[AccountEvent], None] = lambda event: None
        self._supervisor = Supervisor(command, environ, lambda event: self._on_account_event(event))
        # The turns that run, and the child that each was given to, by turn.
        self._runs: dict[str, Run] = {}
        self._given: dict[str, AppServerChild] = {}

    @property
    def state(self) -> str:
        return self._supervisor.state

    async def run_turn(self, request: TurnRequest, emit: Emit, ask: Ask) -> TurnOutcome:
        """Run one turn; see `Runtime`."""
        run = Run(request, emit, ask)
        outcome = await self._attempt(run)
        if outcome.failure is not None and outcome.failure.code == "codex_exited" and not run.has_begun:
            # A child can die while it rests, and nobody knows until it is spoken to. What it never began can be
            # given to the next one.
            outcome = await self._attempt(Run(run.request, emit, ask))
        return outcome

    async def _attempt(self, run: Run) -> TurnOutcome:
        """Give a turn to a child, once."""
        request = run.request
        self._runs[request.turn_id] = run
        try:
            outcome = await self._play(run)
            return replace(outcome, unheard=run.unheard())
        except CodexFailed as problem:
            if problem.code == "codex_stuck" and request.turn_id in self._given:
                # It does not answer any more, and holds its slot for nothing.
                self._given[request.turn_id].kill()
            # A child that died after an interrupt did what was asked of it.
            if run.interrupted:
                return TurnOutcome(TurnStatus.INTERRUPTED)
            return TurnOutcome(TurnStatus.FAILED, Failure(problem.message, problem.code))
        except asyncio.CancelledError:
            if not run.interrupted:
                raise
            return TurnOutcome(TurnStatus.INTERRUPTED)
        finally:
            run.end()
            del self._runs[request.turn_id]
            self._given.pop(request.turn_id, None)

    async def _play(self, run: Run) -> TurnOutcome:
        keep_scratch(self._environ["TMPDIR"])
        child = await self._supervisor.ready_child()
        with child.used():
            self._given[run.request.turn_id] = child
            try:
                return await self._play_on(child, run)
            finally:
                child.release(run)

    async def _play_on(self, child: AppServerChild, run: Run) -> TurnOutcome:
        request = run.request
        if request.thread_id is not None:
            for other in list(self._supervisor.children):  # one may end meanwhile
                if other is not child:
                    await other.give_up_thread(request.thread_id)
        await child.open_thread(run)
        run.cancellable = None
        context = json_codec.encode(request.context).decode() if request.context else None
        try:
            await child.call("turn/start", codex.turn_params(request, run.thread_id, context))
            outcome = await run.done
        finally:
            await run.asks.end()
        if outcome.status is TurnStatus.INTERRUPTED and child.is_alive:
            await child.end_commands(run)
        return outcome

    async def interrupt(self, turn_id: str) -> None:
        """Ask Codex to stop a turn; end a child that does not within the grace time."""
        run = self._runs.get(turn_id)
        if run is None:
            return
        run.interrupted = True
        if run.cancellable is not None:
            run.cancellable.cancel()  # Codex has not been given the turn yet
            return
        child = self._given[turn_id]
        try:
            async with asyncio.timeout(self._interrupt_grace_s):
                await child.interrupt(run)
                await run.ended.wait()
        except TimeoutError:
            log.warning("a turn did not stop within %g s; its Codex is ended", self._interrupt_grace_s)
            child.kill()

    async def steer(self, turn_id: str, text: str, images: tuple[str, ...] = ()) -> None:
        """Give a running turn more to read; see `Runtime`."""
        run = self._runs.get(turn_id)
        if run is None or not run.is_steerable:
            raise Conflict("The turn cannot be steered: it has not begun, or is over.", code=_NOT_STEERABLE)
        message_id = new_id("steer")
        params = codex.steer_params(run.thread_id, run.begun.result(), message_id, text, images)
        run.note_steer(message_id)
        reason = "it is over."
        try:
            # Told in the order of what else is told of the turn, its end included.
            await self._given[turn_id].call(
                "turn/steer", params, on_result=lambda result: run.accept_steer(message_id)
            )
        except CodexFailed as problem:
            reason = problem.message
        if not run.settle_steer(message_id):
            raise Conflict(f"The turn cannot be steered: {reason}", code=_NOT_STEERABLE)

    def close_thread(self, thread_id: str) -> None:
        """Let Codex forget a thread; its files stay Codex's own."""
        for child in self._supervisor.children:
            child.close_thread(thread_id)

    def warm_up(self) -> None:
        """Begin to start a child, so that the first turn need not wait for it."""
        self._supervisor.warm_up()

    async def run_command(self, command: Command, on_output: OnOutput | None = None) -> CommandResult:
        """Run one command in the sandbox; see `Sandbox`."""
        keep_scratch(self._environ["TMPDIR"])
        child = await self._supervisor.ready_child()
        return await SandboxCommand(command, on_output).run(child, self._interrupt_grace_s)

    def follow_account(
        self, on_event: Callable[[AccountEvent], None], is_login_pending: Callable[[], bool]
    ) -> None:
        """Tell `on_event` what Codex says of its account, and its death; no upgrade ends a pending login."""
        self._on_account_event = on_event
        self._supervisor.must_stay = is_login_pending

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_result: Callable[[dict[str, Any]], None] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Call a method that belongs to no thread; see `AppServerClient.call`."""
        child = await self._supervisor.ready_child()
        with child.used():
            return await child.call(method, params, on_result=on_result, timeout_s=timeout_s)

    def replace_child(self) -> None:
        """Have the next call or turn get a new child; the current one finishes what it does."""
        self._supervisor.replace_current()

    async def stop(self) -> None:
        """End all children; turns that still run fail."""
        await self._supervisor.stop()

    def describe(self) -> dict[str, Any]:
        """Return the state of the children."""
        return self._supervisor.describe()


class BriefSandbox:
    """Implements the port `Sandbox` where no app-server is kept: it lives as long as commands follow each other closely.

    With `rest_s` 0 none is left when a command has ended.
    """

    def __init__(
        self,
        command: str | None,
        environ: Mapping[str, str],
        interrupt_grace_s: float = INTERRUPT_GRACE_S,
        rest_s: float = SANDBOX_REST_S,
    ) -> None:
        self._command = command
        self._environ = environ
        self._interrupt_grace_s = interrupt_grace_s
        self._rest_s = rest_s
        self._server: AppServerRuntime | None = None
        self._uses = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def run_command(self, command: Command, on_output: OnOutput | None = None) -> CommandResult:
        """Run one command in the sandbox; see `Sandbox`."""
        if self._timer is not None:
            self._timer.cancel()
        server = self._server = self._server or self._make_server()
        self._uses += 1
        try:
            return await server.run_command(command, on_output)
        finally:
            self._uses -= 1
            if not self._uses and not self._rest_s:
                await self.stop()
            elif not self._uses and self._server is not None:
                self._timer = asyncio.get_running_loop().call_later(self._rest_s, self._let_go)

    async def stop(self) -> None:
        """End the app-server, and what runs on it."""
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _make_server(self) -> AppServerRuntime:
        return AppServerRuntime(self._command, self._environ, self._interrupt_grace_s)

    def _let_go(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            stopping = asyncio.create_task(server.stop(), name="end of the sandbox's codex")
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)
