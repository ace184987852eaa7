"""One turn while it runs on an app-server child: what is heard of it, and how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import CodexFailed
from ..protocol import codex
from ..runtime import Ask, Emit, Event, Failure, TurnOutcome, TurnRequest, TurnStatus
from .app_server_asks import Asks


class Run:
    """One turn while it runs."""

    def __init__(self, request: TurnRequest, emit: Emit, ask: Ask) -> None:
        self.request = request
        self.emit = emit
        self.asks = Asks(ask)
        # The task of `run_turn` while it may be cancelled: until Codex is given the turn.
        self.cancellable = asyncio.current_task()
        self.thread_id = ""
        self.interrupted = False
        self.has_begun = False
        loop = asyncio.get_running_loop()
        # Codex's id of the turn, once it has told it; and how the turn ended. Both are cancelled in the end.
        self.begun: asyncio.Future[str] = loop.create_future()
        self.done: asyncio.Future[TurnOutcome] = loop.create_future()
        # Nothing of it goes on any more, its commands included.
        self.ended = asyncio.Event()
        # The commands that run, by item id.
        self._commands: set[str] = set()
        self._no_commands = asyncio.Event()

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        """Take what Codex tells of the turn's thread."""
        self.asks.on_notification(method, params)
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
        """Settle a turn whose child is gone, and its commands with it."""
        self._no_commands.set()
        if not self.done.done():
            status = TurnStatus.INTERRUPTED if self.interrupted else TurnStatus.FAILED
            reason = None if self.interrupted else Failure(failure.message, failure.code)
            self.done.set_result(TurnOutcome(status, reason))

    def end(self) -> None:
        """Let go of whoever waits for what will not come any more."""
        self.begun.cancel()
        self.done.cancel()
        self.ended.set()
