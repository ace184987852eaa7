"""Turns: takes messages, runs them through the executor and the runtime, and writes what happens into the session.

One turn at a time in a session. A turn is in one of these states, each seen in the session's status:
queued -> running -> completed | interrupted | failed. Every way out passes `_finish`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from .. import log
from ..errors import Conflict
from ..limits import MAX_RECENT_EVENT_CHARACTERS
from ..model import Message, Role, Session, SessionStatus, new_id, now_ms
from ..runtime import Event, Failure, ModelRoute, Runtime, TurnOutcome, TurnRequest, TurnStatus
from ..workspace.paths import is_unmoved
from .backend import Backend
from .device_auth import DeviceAuth
from .executor import Job, TurnExecutor
from .gateway import Gateway
from .sandbox import SandboxCheck
from .sessions import LiveSession, SessionService

_DELTAS = frozenset({"item.agent_message.delta", "item.reasoning.delta", "command.execution.output"})
# Failures that are not the upstream's, whatever it did before.
_CODEX_ITSELF = frozenset(
    {"codex_exited", "codex_stuck", "codex_unavailable", "workspace_moved", "sandbox_unavailable"}
)
_MOVED = Failure("The session's workspace is gone, or has become a link to another place.", "workspace_moved")
_FINAL_EVENTS = {
    TurnStatus.COMPLETED: "session.completed",
    TurnStatus.INTERRUPTED: "session.interrupted",
    TurnStatus.FAILED: "session.error",
}


@dataclass(eq=False, slots=True)
class _Turn:
    """A turn that waits or runs."""

    id: str
    live: LiveSession
    request: TurnRequest
    job: Job | None = None
    timed_out: bool = False
    deleted: bool = False
    # Runs while it is looked for what speaks against the turn.
    looking: asyncio.Task[Failure | None] | None = None
    interrupting: asyncio.Task[None] | None = None


class TurnService:
    """Owns the turns of all sessions."""

    def __init__(
        self,
        sessions: SessionService,
        executor: TurnExecutor,
        runtime: Runtime,
        gateway: Gateway,
        sandbox: SandboxCheck,
        device_auth: DeviceAuth,
        timeout_s: float,
    ) -> None:
        self._sessions = sessions
        self._executor = executor
        self._runtime = runtime
        self._gateway = gateway
        self._sandbox = sandbox
        self._device_auth = device_auth
        self._timeout_s = timeout_s
        self._turns: dict[str, _Turn] = {}

    def warm_up(self) -> None:
        """Begin what the first turn would wait for; a turn is likely to come."""
        self._runtime.warm_up()
        self._sandbox.start()

    def submit(
        self,
        live: LiveSession,
        text: str,
        *,
        backend: Backend,
        sandbox_mode: str,
        attachments: tuple[dict[str, Any], ...] = (),
        images: tuple[str, ...] = (),
        prompt: str | None = None,
        context: dict[str, Any] | None = None,
    ) -> tuple[str, bool]:
        """Store a message and start its turn; return the turn's id and whether it waits.

        `prompt` is what the model reads where that differs from `text`. Raises `Conflict` while a turn is in
        progress and `Unavailable` when the bridge is full; nothing is stored then.
        """
        session = live.session
        self._sessions.get(session.id)  # it may have been deleted while the message arrived
        if session.active_turn_id is not None:
            raise Conflict(
                "The session has a turn in progress; wait for its end or interrupt it.",
                code="turn_in_progress", turn_id=session.active_turn_id,
            )  # fmt: skip
        self._executor.check_capacity()
        turn_id = new_id("t")
        request = TurnRequest(
            session_id=session.id,
            turn_id=turn_id,
            thread_id=session.thread_id,
            workspace_root=session.workspace_root,
            sandbox_mode=sandbox_mode,
            text=prompt or text,
            model=backend.settings.default_model,
            route=self._open_route(session, backend),
            images=images,
            context={**session.context, **(context or {})},
        )
        turn = self._turns[session.id] = _Turn(turn_id, live, request)
        turn.job = Job(
            name=f"turn {turn_id}",
            run=lambda: self._run(turn),
            on_position=lambda n: self._on_position(turn, n),
        )
        session.active_turn_id = turn_id
        session.runtime = backend.to_json()
        session.last_error = session.last_error_code = None
        self._store_message(live, Message(new_id("m"), Role.USER, text, turn_id, now_ms(), attachments))
        return turn_id, self._executor.submit(turn.job)

    def interrupt(self, live: LiveSession) -> str:
        """Stop the session's running or waiting turn and return its id; raise `Conflict` when there is none.

        A running turn ends a moment later, told by its `session.interrupted`.
        """
        turn = self._turns.get(live.session.id)
        if turn is None:
            raise Conflict("The session has no turn in progress.", code="no_turn_in_progress")
        self._interrupt(turn)
        return turn.id

    def delete_session(self, live: LiveSession) -> None:
        """Interrupt what runs, forget the session and its thread."""
        turn = self._turns.get(live.session.id)
        if turn is not None:
            turn.deleted = True
            self._interrupt(turn)
        self._sessions.delete(live)
        self._gateway.close(live.session.id)
        if live.session.id not in self._turns:
            self._let_go(live)

    def _let_go(self, live: LiveSession) -> None:
        """Forget what a deleted session had besides itself, now that no turn of it runs."""
        log.forget(live.choice.get("api_key"))
        if live.session.thread_id is not None:
            self._runtime.close_thread(live.session.thread_id)

    async def drain(self) -> None:
        """Take no more turns, start none that waits, and return when none runs any more.

        A turn that waits for a person runs. How long it may take is the caller's affair.
        """
        self._executor.refuse()
        while self._executor.load()["active_turns"]:
            await self._executor.wait_for_an_end()
            if self._executor.load()["active_turns"]:
                log.info("draining: %s", self._executor.describe())

    async def stop(self, grace_s: float) -> None:
        """Take no more turns, interrupt those in progress, and wait `grace_s` seconds for their end."""
        self._executor.refuse()
        # The newest first: so nobody moves up in the queue.
        for turn in reversed(list(self._turns.values())):
            self._interrupt(turn)
        await self._executor.join(grace_s)

    def _interrupt(self, turn: _Turn) -> None:
        assert turn.job is not None
        if self._executor.withdraw(turn.job):
            self._finish(turn, TurnOutcome(TurnStatus.INTERRUPTED))
        elif turn.interrupting is None:
            turn.interrupting = asyncio.create_task(
                self._runtime.interrupt(turn.id), name=f"interrupt of {turn.id}"
            )
        if turn.looking is not None:
            turn.looking.cancel()

    def _open_route(self, session: Session, backend: Backend) -> ModelRoute | None:
        if backend.route is None:
            return None

        def on_usage(usage: dict[str, int]) -> None:
            so_far = session.usage or {}
            session.usage = {name: so_far.get(name, 0) + number for name, number in usage.items()}

        return self._gateway.open(session.id, backend.route, on_usage)

    # One turn -------------------------------------------------------------------------------------

    def _on_position(self, turn: _Turn, position: int) -> None:
        live, session = turn.live, turn.live.session
        if position and session.queue_position == position:
            return
        first = session.status is not SessionStatus.QUEUED
        session.queue_position = position or None
        session.status = SessionStatus.QUEUED if position else SessionStatus.RUNNING
        session.updated_at = now_ms()
        live.emit(("session.queued" if first else "session.updated") if position else "session.running")

    async def _run(self, turn: _Turn) -> None:
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._on_timeout, turn)
        outcome = TurnOutcome(TurnStatus.INTERRUPTED)
        try:
            outcome = await self._play(turn)
        except Exception as problem:  # noqa: BLE001 - whatever breaks, the session must not stay in `running`
            log.error("turn %s broke: %s: %s", turn.id, type(problem).__name__, problem)
            failure = Failure("The bridge met an error of its own; its log says more.", "internal_error")
            outcome = TurnOutcome(TurnStatus.FAILED, failure)
        finally:
            timer.cancel()
            self._finish(turn, self._explain(turn, outcome))
        if turn.interrupting is not None:
            await asyncio.wait([turn.interrupting])
        if turn.deleted:
            self._let_go(turn.live)

    async def _play(self, turn: _Turn) -> TurnOutcome:
        if turn.interrupting is not None:
            return TurnOutcome(TurnStatus.INTERRUPTED)
        turn.looking = asyncio.create_task(self._find_obstacle(turn), name=f"obstacles of {turn.id}")
        try:
            obstacle = await turn.looking
        except asyncio.CancelledError:
            if turn.interrupting is None:
                raise
            obstacle = None
        finally:
            turn.looking = None
        if turn.interrupting is not None:
            return TurnOutcome(TurnStatus.INTERRUPTED)
        if obstacle is not None:
            return TurnOutcome(TurnStatus.FAILED, obstacle)
        return await self._runtime.run_turn(turn.request, lambda event: self._on_event(turn, event))

    async def _find_obstacle(self, turn: _Turn) -> Failure | None:
        """Return what must keep the turn from running."""
        if not is_unmoved(turn.request.workspace_root):
            return _MOVED
        if turn.request.route is None:
            obstacle = await self._device_auth.find_obstacle()
            if obstacle is not None:
                return obstacle
        return await self._sandbox.find_obstacle()

    def _on_timeout(self, turn: _Turn) -> None:
        turn.timed_out = True
        self._interrupt(turn)

    def _explain(self, turn: _Turn, outcome: TurnOutcome) -> TurnOutcome:
        """Return the outcome with the reason that says most: the bridge's own, the gateway's, or Codex's."""
        if turn.timed_out and outcome.status is not TurnStatus.COMPLETED:
            failure = Failure(
                f"The turn took longer than {self._timeout_s:g} s and was stopped.", "turn_timeout"
            )
            return TurnOutcome(TurnStatus.FAILED, failure)
        if outcome.failure is not None and turn.request.route is None:
            return TurnOutcome(outcome.status, self._device_auth.explain(outcome.failure))
        if outcome.failure is not None and outcome.failure.code not in _CODEX_ITSELF:
            told = self._gateway.last_failure(turn.live.session.id)
            if told is not None:
                return TurnOutcome(TurnStatus.FAILED, told)
        return outcome

    def _on_event(self, turn: _Turn, event: Event) -> None:
        live, session, kind = turn.live, turn.live.session, event["type"]
        data = {"session_id": session.id, "turn_id": turn.id, "event": event}
        if kind in _DELTAS:
            if kind == "item.agent_message.delta":
                session.drafts.setdefault(event["item_id"], []).append(event["delta"])
            live.log.append_delta(data)
            return
        if kind == "usage.updated":
            if turn.request.route is None:  # else the gateway counts, the same for all runtimes
                session.usage = event["usage"]
            return
        if kind == "thread.started":
            session.thread_id = event["thread_id"]
        elif kind == "warning":
            event["message"] = log.redact(event["message"])
            if event.get("code") == "retrying":
                session.drafts.clear()  # Codex begins the broken answer anew
        self._append_event(live, data)
        item = event.get("item", {})
        if kind == "item.completed" and item["type"] == "agentMessage":
            session.drafts.pop(item["id"], None)
            self._store_message(live, Message(new_id("m"), Role.ASSISTANT, item["text"], turn.id, now_ms()))

    def _finish(self, turn: _Turn, outcome: TurnOutcome) -> None:
        """Settle a turn: keep an unfinished answer, free the session, tell the stream."""
        live, session = turn.live, turn.live.session
        del self._turns[session.id]
        unfinished = session.assistant_draft()
        session.drafts.clear()
        if unfinished:
            message = Message(new_id("m"), Role.ASSISTANT, unfinished, turn.id, now_ms(), incomplete=True)
            self._store_message(live, message)
        failure = outcome.failure
        if failure is not None:
            session.last_error, session.last_error_code = log.redact(failure.message), failure.code
        session.active_turn_id = session.queue_position = None
        failed = outcome.status is TurnStatus.FAILED
        session.status = SessionStatus.ERROR if failed else SessionStatus.IDLE
        session.updated_at = now_ms()
        error = {"message": session.last_error, "code": session.last_error_code} if failed else None
        event = {"type": "turn.completed", "status": outcome.status, "error": error, "usage": session.usage}
        self._append_event(live, {"session_id": session.id, "turn_id": turn.id, "event": event})
        live.emit(_FINAL_EVENTS[outcome.status])
        live.log.rest()

    def _store_message(self, live: LiveSession, message: Message) -> None:
        live.session.messages.append(message)
        live.session.updated_at = message.created_at
        live.emit("session.message")

    def _append_event(self, live: LiveSession, data: dict[str, Any]) -> None:
        live.log.append("session.event", data)
        live.session.recent_events.append(_shortened({"turn_id": data["turn_id"], **data["event"]}))


def _shortened(value: Any) -> Any:
    """Return a JSON value with its long texts cut: a session's JSON is read often."""
    if isinstance(value, str) and len(value) > MAX_RECENT_EVENT_CHARACTERS:
        return value[:MAX_RECENT_EVENT_CHARACTERS] + f"... [{len(value)} characters]"
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value
