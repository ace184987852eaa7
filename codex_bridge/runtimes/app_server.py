"""The app-server runtime: all sessions' turns on one supervised `codex app-server`.

The child is started for the first session; all turns that wait for it share that one start. It is restarted by
the next turn after it died, with a growing wait after quick exits. A thread that the running child does not
hold is resumed from Codex's own files, so a conversation survives the child.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import log
from ..errors import CodexFailed
from ..limits import (
    CALL_TIMEOUT_S,
    COMMAND_END_S,
    HEALTHY_AFTER_S,
    INTERRUPT_GRACE_S,
    MAX_LOADED_THREADS,
    MAX_RESTART_BACKOFF_S,
    RESTART_BACKOFF_S,
)
from ..protocol import codex, json_codec
from ..runtime import (
    AccountEvent,
    CodexLost,
    CommandResult,
    Emit,
    Event,
    Failure,
    TurnOutcome,
    TurnRequest,
    TurnStatus,
)
from ..workspace.scratch import keep_scratch
from .app_server_client import AppServerClient


class AppServerRuntime:
    """Implements the ports `Runtime` and `Sandbox`. `command` is None when no Codex was found."""

    capabilities: Mapping[str, bool] = {
        "deltas": True, "diffs": True, "interrupt": True, "resume": True, "images": True,
        "background_commands": True, "approvals": False,
    }  # fmt: skip

    def __init__(self, command: str | None, environ: Mapping[str, str]) -> None:
        self._command = command
        self._environ = environ
        self._client: AppServerClient | None = None
        self._starting: asyncio.Task[AppServerClient] | None = None
        self._started_at = 0.0
        self._quick_exits = 0
        self._runs: dict[str, _Run] = {}
        self._threads: dict[str, _Run] = {}
        # Threads that the child holds, the one used last at the end, each with what it was opened for.
        self._loaded: OrderedDict[str, _Opened] = OrderedDict()
        # Threads that it is closing: until it has, it refuses to resume them.
        self._closing: dict[str, asyncio.Future[None]] = {}
        self._commands = 0  # commands outside of turns that run
        self._is_outdated = False
        # Ends a child that is replaced.
        self._ending: asyncio.Task[None] | None = None
        self._on_account_event: Callable[[AccountEvent], None] = lambda event: None
        self._stopping = False

    async def run_turn(self, request: TurnRequest, emit: Emit) -> TurnOutcome:
        """Run one turn; see `Runtime`."""
        run = _Run(request, emit)
        outcome = await self._attempt(run)
        if outcome.failure is not None and outcome.failure.code == "codex_exited" and not run.has_begun:
            # A child can die while it rests, and nobody knows until it is spoken to. What it never began can be
            # given to the next one.
            outcome = await self._attempt(_Run(request, emit))
        return outcome

    async def _attempt(self, run: _Run) -> TurnOutcome:
        """Give a turn to the child, once."""
        request = run.request
        self._runs[request.turn_id] = run
        try:
            return await self._play(run)
        except CodexFailed as problem:
            if problem.code == "codex_stuck" and run.client is not None:
                run.client.kill()  # one that does not answer any more holds its slot for nothing
            # A child that died after an interrupt did what was asked of it.
            if run.interrupted:
                return TurnOutcome(TurnStatus.INTERRUPTED)
            return TurnOutcome(TurnStatus.FAILED, Failure(problem.message, problem.code))
        except asyncio.CancelledError:
            if not run.interrupted:
                raise
            return TurnOutcome(TurnStatus.INTERRUPTED)
        finally:
            run.begun.cancel()
            run.done.cancel()
            del self._runs[request.turn_id]
            if self._threads.get(run.thread_id) is run:
                del self._threads[run.thread_id]
            self._close_surplus_threads()
            self._end_outdated()

    async def _play(self, run: _Run) -> TurnOutcome:
        request = run.request
        keep_scratch(self._environ["TMPDIR"])
        run.client = client = await self._ready_client()
        await self._open_thread(client, run)
        run.cancellable = None
        context = json_codec.encode(request.context).decode() if request.context else None
        await client.call("turn/start", codex.turn_params(request, run.thread_id, context))
        outcome = await run.done
        if outcome.status is TurnStatus.INTERRUPTED and client.is_alive:
            await self._end_commands(client, run)
        return outcome

    async def _end_commands(self, client: AppServerClient, run: _Run) -> None:
        """End the commands of an interrupted turn: Codex lets them run on. Wait until their items tell so."""
        try:
            async with asyncio.timeout(COMMAND_END_S):
                await client.call("thread/backgroundTerminals/clean", {"threadId": run.thread_id})
                await run.all_commands_ended()
        except (CodexFailed, TimeoutError) as problem:
            log.warning("the commands of an interrupted turn may still run: %s", str(problem) or "no answer")

    async def interrupt(self, turn_id: str) -> None:
        """Ask Codex to stop a turn; replace a child that does not within the grace time."""
        run = self._runs.get(turn_id)
        if run is None:
            return
        run.interrupted = True
        if run.cancellable is not None:
            run.cancellable.cancel()  # Codex has not been given the turn yet
            return
        assert run.client is not None
        try:
            async with asyncio.timeout(INTERRUPT_GRACE_S):
                # Codex refuses to interrupt a turn that it has not told the start of.
                await asyncio.wait([run.begun])
                if not run.begun.cancelled():
                    await self._call_interrupt(run.client, run)
                await asyncio.wait([run.done])
        except TimeoutError:
            log.warning("a turn did not stop within %g s; Codex is restarted", INTERRUPT_GRACE_S)
            run.client.kill()

    async def _call_interrupt(self, client: AppServerClient, run: _Run) -> None:
        try:
            await client.call("turn/interrupt", codex.interrupt_params(run.thread_id, run.begun.result()))
        except CodexFailed as problem:
            # The turn may have ended in this very moment; when it has not, the grace time tells.
            log.info("Codex refused to interrupt a turn: %s", problem.message)

    def close_thread(self, thread_id: str) -> None:
        """Let the child forget a thread; its files stay Codex's own."""
        if thread_id in self._loaded and self._client is not None and self._client.is_alive:
            del self._loaded[thread_id]
            self._closing[thread_id] = asyncio.get_running_loop().create_future()
            self._client.send("thread/unsubscribe", {"threadId": thread_id})

    def warm_up(self) -> None:
        """Begin to start the child, so that the first turn need not wait for it."""
        if (
            self._command is not None
            and self._client is None
            and self._starting is None
            and not self._stopping
        ):
            self._begin_start()

    async def run_command(
        self, command: Sequence[str], cwd: str, sandbox_mode: str, timeout_s: float
    ) -> CommandResult:
        """Run one command in the sandbox; see `Sandbox`."""
        params = codex.command_params(command, cwd, sandbox_mode, timeout_s)
        self._commands += 1
        try:
            client = await self._ready_client()
            result = await client.call("command/exec", params, timeout_s=timeout_s + CALL_TIMEOUT_S)
        finally:
            self._commands -= 1
            self._end_outdated()
        try:
            return CommandResult(result["exitCode"], result["stdout"], result["stderr"])
        except KeyError as problem:
            raise CodexFailed(f"Codex's answer to command/exec has no {problem}.") from None

    def follow_account(self, on_event: Callable[[AccountEvent], None]) -> None:
        """Tell `on_event` what Codex says of its account, and its death."""
        self._on_account_event = on_event

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_result: Callable[[dict[str, Any]], None] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Call a method that belongs to no thread; see `AppServerClient.call`."""
        client = await self._ready_client()
        return await client.call(method, params, on_result=on_result, timeout_s=timeout_s)

    def replace_child(self) -> None:
        """End the child as soon as no turn runs on it, so that the next call starts a new one."""
        self._is_outdated = self._client is not None
        self._end_outdated()

    async def stop(self) -> None:
        """End the child; turns that still run fail."""
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._client is not None:
            await self._client.stop()
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def describe(self) -> dict[str, Any]:
        """Return the state of the child."""
        client = self._client
        alive = client is not None and client.is_alive
        return {
            "state": "running" if alive else "starting" if self._starting else "stopped",
            "pid": client.pid if client is not None and alive else None,
            "loaded_threads": len(self._loaded),
            "quick_exits": self._quick_exits,
        }

    # The child ------------------------------------------------------------------------------------

    async def _ready_client(self) -> AppServerClient:
        """Return the running child, started by the first of all who wait for it."""
        if self._ending is not None:
            await asyncio.wait([self._ending])
        if self._client is not None and self._client.is_alive:
            return self._client
        if self._stopping:
            raise CodexFailed("The bridge is shutting down.", code="shutting_down")
        # Shielded: one turn that gives up must not take the start away from the others.
        return await asyncio.shield(self._starting or self._begin_start())

    def _begin_start(self) -> asyncio.Task[AppServerClient]:
        self._starting = asyncio.create_task(self._start_client(), name="start of codex")
        self._starting.add_done_callback(self._on_start_done)
        return self._starting

    async def _start_client(self) -> AppServerClient:
        if self._command is None:
            raise CodexFailed(codex.NOT_FOUND, code="codex_unavailable")
        if self._quick_exits:
            wait_s = min(RESTART_BACKOFF_S * 2 ** min(self._quick_exits - 1, 10), MAX_RESTART_BACKOFF_S)
            log.info("Codex is restarted in %g s", wait_s)
            await asyncio.sleep(wait_s)
        self._started_at = asyncio.get_running_loop().time()
        keep_scratch(self._environ["TMPDIR"])
        client = AppServerClient(self._on_notification, self._on_exit)
        try:
            await client.start(self._command, self._environ)
        except asyncio.CancelledError:
            await client.stop()
            raise
        self._client = client
        log.info("Codex %s runs as process %s", codex.parse_version(client.user_agent), client.pid)
        return client

    def _on_start_done(self, task: asyncio.Task[AppServerClient]) -> None:
        self._starting = None
        if not task.cancelled() and task.exception() is not None:
            self._quick_exits += 1

    def _end_outdated(self) -> None:
        is_resting = not self._runs and not self._commands
        if self._is_outdated and is_resting and self._ending is None and self._client is not None:
            self._ending = asyncio.create_task(self._client.stop(), name="end of an outdated codex")
            self._ending.add_done_callback(self._on_ended)

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        self._ending = None

    def _on_exit(self, failure: CodexFailed) -> None:
        lived_s = asyncio.get_running_loop().time() - self._started_at
        started = self._client is not None
        self._client = None
        self._is_outdated = False
        self._loaded.clear()
        for closed in self._closing.values():
            closed.cancel()
        self._closing.clear()
        for run in list(self._threads.values()):
            run.fail(failure)
        if started:
            self._on_account_event(CodexLost(failure.message))
        if not started or self._stopping or self._ending is not None:
            return  # a failed start counts where it was awaited, and an end that was wanted does not
        self._quick_exits = 0 if lived_s >= HEALTHY_AFTER_S else self._quick_exits + 1
        log.warning("%s", failure.message)

    def _on_notification(self, method: str, params: dict[str, Any]) -> None:
        thread_id = params.get("threadId")
        if thread_id is None:
            event = codex.to_account_event(method, params)
            if event is not None:
                self._on_account_event(event)
            return
        if method == "thread/closed" and thread_id in self._closing:
            self._closing.pop(thread_id).cancel()
        run = self._threads.get(thread_id)
        if run is not None:
            run.on_notification(method, params)

    # Threads --------------------------------------------------------------------------------------

    async def _open_thread(self, client: AppServerClient, run: _Run) -> None:
        """Make sure that the child holds the session's thread, and route its notifications to `run`."""
        request = run.request
        wanted = _Opened(request.route.base_url if request.route else None, request.model)

        def register(thread_id: str) -> None:
            self._loaded[thread_id] = wanted
            if run.done.cancelled():
                # The turn was interrupted while it waited for this answer: nobody needs the thread.
                self.close_thread(thread_id)
                return
            run.thread_id = thread_id
            self._threads[thread_id] = run
            self._loaded.move_to_end(thread_id)

        def on_result(result: dict[str, Any]) -> None:
            register(result["thread"]["id"])

        if request.thread_id is not None and request.thread_id in self._loaded:
            if self._loaded[request.thread_id].serves(wanted):
                register(request.thread_id)
                return
            self.close_thread(request.thread_id)
        if request.thread_id is not None:
            if request.thread_id in self._closing:
                await asyncio.wait([self._closing[request.thread_id]], timeout=CALL_TIMEOUT_S)
            try:
                await client.call("thread/resume", codex.resume_params(request), on_result=on_result)
                run.emit({"type": "thread.started", "thread_id": run.thread_id, "resumed": True})
                return
            except CodexFailed as problem:
                # Codex keeps no file of a thread that never had a turn, one may have been deleted, and one may be of a
                # model provider that is no longer used. Any other refusal may pass, and must not cost the conversation.
                if not codex.is_lost_thread(problem.message):
                    raise
                log.warning("thread %s was not resumed: %s", request.thread_id, problem.message)
                run.emit(codex.not_resumed_event(problem.message))
        await client.call("thread/start", codex.thread_params(request), on_result=on_result)
        run.emit({"type": "thread.started", "thread_id": run.thread_id, "resumed": False})

    def _close_surplus_threads(self) -> None:
        while len(self._loaded) > MAX_LOADED_THREADS:
            resting = next((thread for thread in self._loaded if thread not in self._threads), None)
            if resting is None:
                return
            self.close_thread(resting)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a thread was opened for: the gateway's address, or None for Codex's own service, and its model."""

    base_url: str | None
    model: str | None

    def serves(self, wanted: _Opened) -> bool:
        """Say whether a turn can change it to `wanted`: not the service, and not from a model back to the default."""
        return self.base_url == wanted.base_url and (wanted.model is not None or self.model is None)


class BriefSandbox:
    """Implements the port `Sandbox` where no app-server is kept: it lives as long as the command."""

    def __init__(self, command: str | None, environ: Mapping[str, str]) -> None:
        self._command = command
        self._environ = environ

    async def run_command(
        self, command: Sequence[str], cwd: str, sandbox_mode: str, timeout_s: float
    ) -> CommandResult:
        """Run one command in the sandbox; see `Sandbox`."""
        server = AppServerRuntime(self._command, self._environ)
        try:
            return await server.run_command(command, cwd, sandbox_mode, timeout_s)
        finally:
            await server.stop()


class _Run:
    """One turn while it runs."""

    def __init__(self, request: TurnRequest, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.client: AppServerClient | None = None
        # The task of `run_turn` while it may be cancelled: until Codex is given the turn.
        self.cancellable = asyncio.current_task()
        self.thread_id = ""
        self.interrupted = False
        self.has_begun = False
        loop = asyncio.get_running_loop()
        # Codex's id of the turn, once it has told it; and how the turn ended. Both are cancelled in the end.
        self.begun: asyncio.Future[str] = loop.create_future()
        self.done: asyncio.Future[TurnOutcome] = loop.create_future()
        # The commands that run, by item id.
        self._commands: set[str] = set()
        self._no_commands = asyncio.Event()

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        if method == "turn/started" and not self.begun.done():
            self.has_begun = True
            self.begun.set_result(params["turn"]["id"])
        turn_id = params.get("turnId")
        if turn_id is not None and (not self.begun.done() or turn_id != self.begun.result()):
            return  # what a command of an earlier turn still says
        if method == "turn/completed":
            is_ours = not self.begun.done() or params["turn"]["id"] == self.begun.result()
            if is_ours and not self.done.done():
                self.done.set_result(codex.parse_outcome(params["turn"]))
            return
        event = codex.to_event(method, params)
        if event is not None:
            self._note_command(event)
            self.emit(event)

    def _note_command(self, event: Event) -> None:
        item = event.get("item", {})
        if item.get("type") == "commandExecution":
            (self._commands.add if event["type"] == "item.started" else self._commands.discard)(item["id"])
            if not self._commands:
                self._no_commands.set()

    async def all_commands_ended(self) -> None:
        """Wait for the end of the commands that run."""
        if self._commands:
            self._no_commands.clear()
            await self._no_commands.wait()

    def fail(self, failure: CodexFailed) -> None:
        if not self.done.done():
            status = TurnStatus.INTERRUPTED if self.interrupted else TurnStatus.FAILED
            reason = None if self.interrupted else Failure(failure.message, failure.code)
            self.done.set_result(TurnOutcome(status, reason))
