"""What Codex asks in one turn: each request waits for its answer in a task of its own, so none holds up another.

A request is open until it is answered, or Codex says that it is resolved. What is still open when the turn is over
is declined: an agent that the turn has spawned may wait for it, and Codex itself would wait for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from .. import log
from ..protocol import codex, codex_requests
from ..runtime import ApprovalAnswer, ApprovalRequest, Ask, Withdrawn
from .app_server_client import RequestId


class Asker(Protocol):
    """The child that asks."""

    @property
    def is_alive(self) -> bool:
        """Whether it can still be answered."""

    def answer(self, request_id: RequestId, result: dict[str, Any]) -> None:
        """Answer its request."""

    def send(self, method: str, params: dict[str, Any]) -> None:
        """Call a method whose answer nobody waits for."""


@dataclass(eq=False, slots=True)
class _Open:
    """A request that Codex still waits for."""

    asker: Asker
    id: RequestId
    method: str
    params: dict[str, Any]
    request: ApprovalRequest
    task: asyncio.Task[ApprovalAnswer] | None = None


class Asks:
    """The requests of one turn. `agents` are the threads that the turn has spawned, whose requests are its own."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._open: dict[RequestId, _Open] = {}
        self._tasks: set[asyncio.Task[ApprovalAnswer]] = set()
        # The edits that are under way, by item id: the request for an approval does not tell them.
        self._changes: dict[str, list[dict[str, Any]]] = {}
        self._is_over = False
        self.agents: set[str] = set()
        # The items that nobody has allowed in time: Codex does not run them, and tells no end of theirs.
        self.unallowed: set[str] = set()

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        """Take what Codex tells of the turn's thread, or of one of its agents'."""
        if method == "serverRequest/resolved":
            self._withdraw(params["requestId"])
            return
        item = params.get("item")
        if not isinstance(item, dict):
            return
        if item.get("type") == "collabAgentToolCall":
            self.agents.update(item.get("receiverThreadIds") or ())
        elif item.get("type") == "fileChange" and method == "item/started":
            self._changes[str(item.get("id"))] = item.get("changes") or []
        elif item.get("type") == "fileChange":
            self._changes.pop(str(item.get("id")), None)

    def on_request(self, asker: Asker, request_id: RequestId, method: str, params: dict[str, Any]) -> bool:
        """Have a person asked; return False for a request that is no such thing, or comes too late."""
        request = codex_requests.read_request(method, params, self._changes.get(params.get("itemId", "")))
        if request is None or self._is_over:
            return False
        opened = self._open[request_id] = _Open(asker, request_id, method, params, request)
        opened.task = asyncio.create_task(self._wait(opened), name=f"approval {request.item_id}")
        self._tasks.add(opened.task)
        opened.task.add_done_callback(lambda task: self._on_done(opened, task))
        return True

    async def end(self) -> None:
        """Withdraw all that is open; nobody is asked any more."""
        self._is_over = True
        for opened in list(self._open.values()):
            reason = Withdrawn.TURN_ENDED if opened.asker.is_alive else Withdrawn.CODEX_EXITED
            self._cancel(opened, reason)
            self._refuse(opened)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _wait(self, opened: _Open) -> ApprovalAnswer:
        answer = await self._ask(opened.request)
        method, params = opened.method, opened.params
        if self._open.pop(opened.id, None) is not None:
            opened.asker.answer(opened.id, codex_requests.encode_answer(method, params, answer))
            if codex_requests.ends_turn(method, answer):
                of_turn = codex.interrupt_params(params["threadId"], params["turnId"])
                opened.asker.send("turn/interrupt", of_turn)
        return answer

    def _withdraw(self, request_id: RequestId) -> None:
        # It comes for every request, also for one that was answered: that is not open any more.
        opened = self._open.pop(request_id, None)
        if opened is not None:
            self._cancel(opened, Withdrawn.BY_CODEX)

    def _cancel(self, opened: _Open, reason: Withdrawn) -> None:
        if opened.params.get("approvalId") is None:  # else it is asked for a part of what runs
            self.unallowed.add(opened.request.item_id)
        if opened.task is not None:
            opened.request.withdrawn = reason
            opened.task.cancel()

    def _refuse(self, opened: _Open) -> None:
        del self._open[opened.id]
        refusal = codex_requests.encode_refusal(opened.method, opened.params)
        if refusal is not None and opened.asker.is_alive:
            opened.asker.answer(opened.id, refusal)

    def _on_done(self, opened: _Open, task: asyncio.Task[ApprovalAnswer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("nobody could be asked for an approval: %r", task.exception())
            if opened.id in self._open:
                self._refuse(opened)
