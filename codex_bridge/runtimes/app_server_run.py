"""One turn while it runs on an app-server child: what is heard of it, and how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ..errors import CodexFailed
from ..protocol import codex
from ..runtime import Ask, Emit, Event, Failure, TurnOutcome, TurnRequest, TurnStatus
from ..values import replace
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
        # The newest diff of the turn: Codex tells it again after each step, also where nothing has changed.
        self._diff: Event | None = None
        # The commands that run, by item id.
        self._commands: set[str] = set()
        self._no_commands = asyncio.Event()
        # The messages that are being written, by item id: each its item, and the pieces so far.
        self._messages: dict[str, tuple[dict[str, Any], list[str]]] = {}
        # The texts that are to steer it and that the model has not gone on from yet.
        self._steers: dict[str, _Steer] = {}

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
        self._note_steered(method, params)
        event = codex.to_event(method, params)
        if event is not None and event != self._diff:
            if event["type"] == "turn.diff.updated":
                self._diff = event
            self._note_command(event)
            self._note_message(event)
            self.emit(event)

    def catch_up(self) -> None:
        """Note that the thread has heard all that was said before: it must not be told once more."""
        self.request = replace(self.request, heard=len(self.request.history))
        self.emit({"type": "thread.caught_up"})

    @property
    def is_steerable(self) -> bool:
        """Whether Codex works on it now."""
        return self.begun.done() and not self.done.done() and not self.interrupted

    def note_steer(self, message_id: str) -> None:
        """Remember a text that Codex is given."""
        self._steers[message_id] = _Steer()

    def accept_steer(self, message_id: str) -> None:
        """Note that Codex has taken it; what it takes when the turn is over is refused."""
        if message_id in self._steers and not self.done.done():
            self._steers[message_id].is_taken = True

    def settle_steer(self, message_id: str) -> bool:
        """Forget a text that was not taken; say whether it was."""
        if message_id in self._steers and not self._steers[message_id].is_taken:
            del self._steers[message_id]
            return False
        return True

    def unheard(self) -> int:
        """Return how many of the newest texts that were taken the model has not gone on from.

        Measured: of those that come in the very last moment Codex still takes some, puts them into the conversation, and
        asks the model no more; what waits for the end of a command when the turn is interrupted is lost.
        """
        return sum(steer.is_taken for steer in self._steers.values())

    def _note_steered(self, method: str, params: dict[str, Any]) -> None:
        """See a text that steers come into the conversation, and the model go on from it."""
        item = params.get("item", {})
        if item.get("type") != "userMessage":
            if method == "item/started":
                self._steers = {key: steer for key, steer in self._steers.items() if not steer.is_shown}
        elif item.get("clientId") in self._steers:
            self._steers[item["clientId"]].is_shown = True
            self._cut_messages()

    def _cut_messages(self) -> None:
        """End the messages that are being written: Codex has broken them off and tells no end."""
        for item, pieces in self._messages.values():
            if pieces:
                cut = {**item, "text": "".join(pieces), "incomplete": True}
                self.emit({"type": "item.completed", "item": cut})
        self._messages.clear()

    def _note_message(self, event: Event) -> None:
        kind, item = event["type"], event.get("item", {})
        if kind == "item.agent_message.delta" and event["item_id"] in self._messages:
            self._messages[event["item_id"]][1].append(event["delta"])
        elif kind == "warning" and event.get("code") == codex.RETRYING:
            self._messages.clear()  # what was written is void, and written anew
        elif item.get("type") == "agentMessage" and kind == "item.started":
            self._messages[item["id"]] = (item, [])
        elif item.get("type") == "agentMessage":
            self._messages.pop(item["id"], None)

    def _note_command(self, event: Event) -> None:
        item = event.get("item", {})
        if item.get("type") == "commandExecution":
            (self._commands.add if event["type"] == "item.started" else self._commands.discard)(item["id"])
            if not self._commands:
                self._no_commands.set()

    async def all_commands_ended(self) -> None:
        """Wait for the end of the commands that run."""
        self._commands -= self.asks.unallowed
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


@dataclass(slots=True)
class _Steer:
    """A text that is to steer a turn: whether Codex has taken it, and put it into the conversation."""

    is_taken: bool = False
    is_shown: bool = False
