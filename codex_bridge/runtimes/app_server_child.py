"""One `codex app-server` child with what it holds: its threads, those that it is closing, the turns on it.

Which child a turn is given to, and when one is started or ended, is the supervisor's affair.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .. import log
from ..adapters.process import Program
from ..errors import CodexFailed
from ..limits import CALL_TIMEOUT_S, COMMAND_END_S, MAX_LOADED_THREADS
from ..protocol import codex
from ..runtime import AccountEvent
from ..values import value
from .app_server_client import AppServerClient, RequestId
from .app_server_run import Run

# Told the stream of a command, stdout or stderr, and the bytes that it has written there.
OnBytes = Callable[[str, bytes], None]


class AppServerChild:
    """A child. `on_exit` is called at its end, `on_rest` when something that used it has ended."""

    def __init__(
        self,
        on_exit: Callable[[AppServerChild, CodexFailed], None],
        on_rest: Callable[[AppServerChild], None],
        on_account_event: Callable[[AccountEvent], None],
    ) -> None:
        self._on_exit = on_exit
        self._on_rest = on_rest
        self._on_account_event = on_account_event
        self._client = AppServerClient(self._on_notification, self._on_request, self._on_client_exit)
        self.program: Program | None = None
        self.is_wanted = True
        # Whether a turn has begun on it: then it works, whatever ends it later.
        self.is_proven = False
        self._uses = 0
        # The turns on it, by thread.
        self._runs: dict[str, Run] = {}
        # The commands outside of turns: who is told what each writes, by the id that Codex knows it by.
        self._commands: dict[str, OnBytes] = {}
        # Threads that it holds, the one used last at the end, each with what it was opened for.
        self._loaded: OrderedDict[str, _Opened] = OrderedDict()
        # Threads that it is closing: until it has, nobody may resume them.
        self._closing: dict[str, asyncio.Future[None]] = {}

    @property
    def is_alive(self) -> bool:
        return self._client.is_alive

    @property
    def is_resting(self) -> bool:
        """Whether nothing uses it."""
        return self._uses == 0

    @property
    def pid(self) -> int | None:
        return self._client.pid

    @property
    def version(self) -> str | None:
        return codex.parse_version(self._client.user_agent)

    async def start(self, program: Program, environ: Mapping[str, str]) -> None:
        """Start the child and shake hands; raise `CodexFailed`."""
        self.program = program
        await self._client.start(program.path, environ)

    async def stop(self) -> None:
        """End the child and its group, and wait for it; turns that still run on it fail."""
        self.is_wanted = False
        await self._client.stop()

    def kill(self) -> None:
        """End a wedged child at once; turns that still run on it fail."""
        self.is_wanted = False
        self._client.kill()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the supervisor from ending the child meanwhile."""
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            self._on_rest(self)

    @contextmanager
    def hearing(self, process_id: str, on_bytes: OnBytes) -> Iterator[None]:
        """Tell what a command writes meanwhile."""
        self._commands[process_id] = on_bytes
        try:
            yield
        finally:
            del self._commands[process_id]

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_result: Callable[[dict[str, Any]], None] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Call a method; see `AppServerClient.call`."""
        return await self._client.call(method, params, on_result=on_result, timeout_s=timeout_s)

    def send(self, method: str, params: dict[str, Any]) -> None:
        """Call a method whose answer nobody waits for."""
        self._client.send(method, params)

    def describe(self) -> dict[str, Any]:
        """Return what `/runtime/info` tells of one child."""
        return {
            "pid": self.pid,
            "version": self.version,
            "turns": len(self._runs),
            "commands": len(self._commands),
            "loaded_threads": len(self._loaded),
        }

    def _on_client_exit(self, failure: CodexFailed) -> None:
        self._loaded.clear()
        for closed in self._closing.values():
            closed.cancel()
        self._closing.clear()
        for run in list(self._runs.values()):
            run.fail(failure)
        self._on_exit(self, failure)

    def _on_notification(self, method: str, params: dict[str, Any]) -> None:
        thread_id = params.get("threadId")
        if method == codex.COMMAND_OUTPUT:
            process_id, stream, data = codex.parse_command_output(params)
            if process_id in self._commands:
                self._commands[process_id](stream, data)
            return
        if thread_id is None:
            event = codex.to_account_event(method, params)
            if event is not None:
                self._on_account_event(event)
            return
        if method == "thread/closed" and thread_id in self._closing:
            self._closing.pop(thread_id).cancel()
        if method == "turn/started":
            self.is_proven = True
        run = self._runs.get(thread_id)
        if run is not None:
            run.on_notification(method, params)
            return
        run = self._find_run_of_agent(thread_id)
        if run is not None:
            run.asks.on_notification(method, params)

    def _on_request(self, request_id: RequestId, method: str, params: dict[str, Any]) -> bool:
        thread_id = params.get("threadId", "")
        run = self._runs.get(thread_id) or self._find_run_of_agent(thread_id)
        return run is not None and run.asks.on_request(self._client, request_id, method, params)

    def _find_run_of_agent(self, thread_id: str) -> Run | None:
        """Return the turn that has spawned the agent of this thread."""
        return next((run for run in self._runs.values() if thread_id in run.asks.agents), None)

    # Turns ----------------------------------------------------------------------------------------

    async def interrupt(self, run: Run) -> None:
        """Ask for a turn's end once it has begun: before, Codex refuses."""
        await asyncio.wait([run.begun])
        if run.begun.cancelled():
            return
        try:
            await self.call("turn/interrupt", codex.interrupt_params(run.thread_id, run.begun.result()))
        except CodexFailed as problem:
            # The turn may have ended in this very moment; when it has not, the grace time tells.
            log.info("Codex refused to interrupt a turn: %s", problem.message)

    async def end_commands(self, run: Run) -> None:
        """End the commands of an interrupted turn: Codex lets them run on. Wait until their items tell so."""
        # Whoever has asked for the interrupt has a time of its own, and ends a child that needs more.
        patience_s = None if run.interrupted else COMMAND_END_S
        try:
            async with asyncio.timeout(patience_s):
                await self.call("thread/backgroundTerminals/clean", {"threadId": run.thread_id})
                await run.all_commands_ended()
        except (CodexFailed, TimeoutError) as problem:
            log.warning("the commands of an interrupted turn may still run: %s", str(problem) or "no answer")

    def release(self, run: Run) -> None:
        """Let go of a turn that is over; its thread stays open for the next one."""
        if self._runs.get(run.thread_id) is run:
            del self._runs[run.thread_id]
        while len(self._loaded) > MAX_LOADED_THREADS:
            resting = next((thread for thread in self._loaded if thread not in self._runs), None)
            if resting is None:
                return
            self.close_thread(resting)

    # Threads --------------------------------------------------------------------------------------

    def close_thread(self, thread_id: str) -> None:
        """Let the child forget a thread, and end its commands; its files stay Codex's own."""
        if thread_id in self._loaded and self.is_alive:
            del self._loaded[thread_id]
            self._closing[thread_id] = asyncio.get_running_loop().create_future()
            self._client.send("thread/unsubscribe", {"threadId": thread_id})

    async def give_up_thread(self, thread_id: str) -> None:
        """Close a thread that another child is to open, and wait until it may.

        Measured: as long as one process holds a thread, Codex lets no other resume it.
        """
        self.close_thread(thread_id)
        closing = self._closing.get(thread_id)
        if closing is None:
            return
        _, unanswered = await asyncio.wait([closing], timeout=CALL_TIMEOUT_S)
        if unanswered:
            log.warning("Codex did not close a thread within %g s and is ended", CALL_TIMEOUT_S)
            self.kill()
            await asyncio.wait([closing])

    async def open_thread(self, run: Run) -> None:
        """Make sure that the child holds the session's thread, with all that was said, and route what it tells to `run`."""
        missed = run.request.missed(await self._load_thread(run))
        if missed:
            await self.call("thread/inject_items", codex.inject_params(run.thread_id, missed))
            run.catch_up()

    async def _load_thread(self, run: Run) -> bool:
        """Open the session's thread, and say whether it is the one that it had before."""
        request = run.request
        wanted = _Opened(request.route.base_url if request.route else None, request.model)

        def register(thread_id: str) -> None:
            self._loaded[thread_id] = wanted
            if run.done.cancelled():
                # The turn was interrupted while it waited for this answer: nobody needs the thread.
                self.close_thread(thread_id)
                return
            run.thread_id = thread_id
            self._runs[thread_id] = run
            self._loaded.move_to_end(thread_id)

        def on_result(result: dict[str, Any]) -> None:
            register(result["thread"]["id"])

        if request.thread_id is not None and request.thread_id in self._loaded:
            if self._loaded[request.thread_id].serves(wanted):
                register(request.thread_id)
                return True
            self.close_thread(request.thread_id)
        if request.thread_id is not None:
            if request.thread_id in self._closing:
                await asyncio.wait([self._closing[request.thread_id]], timeout=CALL_TIMEOUT_S)
            try:
                await self.call("thread/resume", codex.resume_params(request), on_result=on_result)
                run.emit({"type": "thread.started", "thread_id": run.thread_id, "resumed": True})
                return True
            except CodexFailed as problem:
                # Codex keeps no file of a thread that never had a turn, one may have been deleted, and one may be of a
                # model provider that is no longer used. Any other refusal may pass, and must not cost the conversation.
                if not codex.is_lost_thread(problem.message):
                    raise
                if request.heard:  # else it never was Codex's, or lost nothing
                    log.warning("thread %s was not resumed: %s", request.thread_id, problem.message)
                    run.emit(codex.not_resumed_event(problem.message))
        await self.call("thread/start", codex.thread_params(request), on_result=on_result)
        run.emit({"type": "thread.started", "thread_id": run.thread_id, "resumed": False})
        return False


@value
class _Opened:
    """What a thread was opened for: the gateway's address, or None for Codex's own service, and its model."""

    base_url: str | None
    model: str | None

    def serves(self, wanted: _Opened) -> bool:
        """Say whether a turn can change it to `wanted`: not the service, and not from a model back to the default."""
        return self.base_url == wanted.base_url and (wanted.model is not None or self.model is None)
