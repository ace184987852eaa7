"""The transcript: writes what a turn tells into its session, its event log and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import log
from ..limits import MAX_RECENT_EVENT_CHARACTERS
from ..model import Message, Role, Session, SessionStatus, new_id, now_ms
from ..runtime import Event, TurnOutcome, TurnStatus
from ..store import items, messages, turns

if TYPE_CHECKING:
    from .live import LiveSession
    from .recorder import Recorder

_DELTAS = frozenset({"item.agent_message.delta", "item.reasoning.delta", "command.execution.output"})
_FINAL_EVENTS = {
    TurnStatus.COMPLETED: "session.completed",
    TurnStatus.INTERRUPTED: "session.interrupted",
    TurnStatus.FAILED: "session.error",
}


class Transcript:
    """Writes the events of turns down, in the order in which they come."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def note(self, live: LiveSession, turn_id: str, event: Event) -> None:
        """Write a runtime event down, and tell it."""
        session, kind = live.session, event["type"]
        if kind == "thread.started":
            session.thread_id = event["thread_id"]
            if not event["resumed"]:
                session.thread_turn_id = None
            # The thread is known to the next bridge before anything happens in it.
            self._recorder.secure(live)
        elif kind == "warning":
            event["message"] = log.redact(event["message"])
        note_draft(session, event)
        data = {"session_id": session.id, "turn_id": turn_id, "event": event}
        if kind in _DELTAS:
            live.log.append_delta(data)
            return
        item = event.get("item", {})
        is_answer = kind == "item.completed" and item["type"] == "agentMessage"
        if kind == "item.completed":
            self._recorder.add(live, items.insert(live.key, turn_id, item, now_ms()))
        if is_answer:
            self._recorder.secure(live)
        live.log.append("session.event", data)
        note_recent(session, data)
        if is_answer:
            is_cut = item.get("incomplete", False)
            self.add_message(
                live,
                Message(new_id("m"), Role.ASSISTANT, item["text"], turn_id, now_ms(), incomplete=is_cut),
            )

    def note_heard(self, live: LiveSession, turn_id: str) -> None:
        """Note which turn is the last that Codex's thread has heard of, for the next bridge as well: it would tell it once more."""
        live.session.thread_turn_id = turn_id
        self._recorder.secure(live)

    def add_message(self, live: LiveSession, message: Message) -> None:
        """Add a message to a session, and tell it; whoever calls this secures it."""
        position = live.take_position()
        live.writes.append(messages.insert(live.key, position, message))
        live.show(message, position)
        live.emit("session.message")

    def end(self, live: LiveSession, turn_id: str, outcome: TurnOutcome, next_position: int = 0) -> None:
        """Settle a turn: keep an unfinished answer, free the session, tell the stream.

        `next_position` is where the session's next turn waits, if there is one.
        """
        session, failure = live.session, outcome.failure
        ended_at = now_ms()
        failed = outcome.status is TurnStatus.FAILED
        if failure is not None:
            session.last_error, session.last_error_code = log.redact(failure.message), failure.code
        error = {"message": session.last_error, "code": session.last_error_code} if failure else None
        self._recorder.secure(live, turns.update(turn_id, outcome.status, ended_at=ended_at, error=error))
        is_active = turn_id == session.active_turn_id
        if is_active:
            self._keep_draft(live, turn_id)
            rest = SessionStatus.ERROR if failed else SessionStatus.IDLE
            session.active_turn_id = session.queued_turn_ids.pop(0) if session.queued_turn_ids else None
            session.status = SessionStatus.QUEUED if session.active_turn_id else rest
            session.queue_position = (next_position or None) if session.active_turn_id else None
        else:
            session.queued_turn_ids.remove(turn_id)
        session.updated_at = ended_at
        event = {"type": "turn.completed", "status": outcome.status, "error": error, "usage": session.usage}
        data = {"session_id": session.id, "turn_id": turn_id, "event": event}
        live.log.append("session.event", data)
        note_recent(session, data)
        live.emit(_FINAL_EVENTS[outcome.status] if is_active else "session.updated")
        live.log.rest()

    def _keep_draft(self, live: LiveSession, turn_id: str) -> None:
        unfinished = live.session.assistant_draft()
        live.session.drafts.clear()
        if unfinished:
            message = Message(new_id("m"), Role.ASSISTANT, unfinished, turn_id, now_ms(), incomplete=True)
            self.add_message(live, message)


def note_draft(session: Session, event: Event) -> None:
    """Keep the session's drafts: the answers that are not complete yet."""
    kind = event["type"]
    if kind == "item.agent_message.delta":
        session.drafts.setdefault(event["item_id"], []).append(event["delta"])
    elif kind == "item.completed":
        session.drafts.pop(event["item"]["id"], None)
    elif kind == "warning" and event.get("code") == "retrying":
        session.drafts.clear()  # Codex begins the broken answer anew


def note_recent(session: Session, data: dict[str, Any]) -> None:
    """Keep the data of a `session.event` among the session's newest events, unless it is a delta."""
    event = data["event"]
    if event["type"] not in _DELTAS:
        session.recent_events.append(_shortened({"turn_id": data["turn_id"], **event}))


def _shortened(value: Any) -> Any:
    """Return a JSON value with its long texts cut: a session's JSON is read often."""
    if isinstance(value, str) and len(value) > MAX_RECENT_EVENT_CHARACTERS:
        return value[:MAX_RECENT_EVENT_CHARACTERS] + f"... [{len(value)} characters]"
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value
