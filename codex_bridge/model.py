"""What the bridge remembers: sessions and their messages, and their JSON shapes (docs/api.md)."""

from __future__ import annotations

import base64
import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from .limits import MAX_BRIEF_DIFF_CHARACTERS, MAX_BRIEF_MESSAGES, MAX_RECENT_EVENTS
from .runtime import ApprovalRequest, Decision
from .values import value


class SessionStatus(StrEnum):
    IDLE = "idle"
    QUEUED = "queued"
    RUNNING = "running"
    ERROR = "error"


class SessionMode(StrEnum):
    WORKSPACE = "workspace"
    ENTITY = "entity"


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


def new_id(prefix: str) -> str:
    """Return an id that cannot be guessed, such as s_h2Kd..."""
    return f"{prefix}_{base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip('=')}"


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@value
class Message:
    """One message of a conversation. `incomplete` marks an answer that was cut off."""

    id: str
    role: Role
    text: str
    turn_id: str
    created_at: int
    attachments: tuple[dict[str, Any], ...] = ()
    incomplete: bool = False

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "id": self.id,
            "role": self.role,
            "text": self.text,
            "attachments": list(self.attachments),
            "created_at": self.created_at,
            "turn_id": self.turn_id,
        }
        if self.incomplete:
            value["incomplete"] = True
        return value


class ApprovalStatus(StrEnum):
    PENDING = "pending"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(eq=False, slots=True)
class Approval:
    """What Codex waits for a person to allow or to answer, and what came of it.

    `settled_reason` says who or what has settled it. `answers` are those to questions that are not secret.
    """

    id: str
    session_id: str
    turn_id: str
    request: ApprovalRequest
    created_at: int
    expires_at: int
    status: ApprovalStatus = ApprovalStatus.PENDING
    decision: Decision | None = None
    settled_reason: str | None = None
    settled_at: int | None = None
    answers: dict[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the whole approval, with what is asked."""
        request = self.request
        value: dict[str, Any] = {
            "request_id": self.id,
            "session_id": self.session_id,
            "turn_id": self.turn_id,
            "kind": request.kind,
            "item_id": request.item_id,
            "status": self.status,
            "decisions": list(request.decisions),
            **request.details,
        }
        if request.questions:
            value["questions"] = [question.to_json() for question in request.questions]
        value |= {"created_at": self.created_at, "expires_at": self.expires_at}
        if self.status is not ApprovalStatus.PENDING:
            value |= self.settlement()
        return value

    def settlement(self) -> dict[str, Any]:
        """Return what came of it."""
        value: dict[str, Any] = {
            "decision": self.decision,
            "settled_reason": self.settled_reason,
            "settled_at": self.settled_at,
        }
        if self.answers:
            value["answers"] = self.answers
        return value

    def to_brief_json(self) -> dict[str, Any]:
        """Return it with its diffs cut: they may be long, and are told whole elsewhere."""
        value = self.to_json()
        if "changes" in value:
            value["changes"] = [_with_short_diff(change) for change in value["changes"]]
        return value


def _with_short_diff(change: dict[str, Any]) -> dict[str, Any]:
    diff = change.get("diff")
    if not isinstance(diff, str) or len(diff) <= MAX_BRIEF_DIFF_CHARACTERS:
        return change
    return {**change, "diff": f"{diff[:MAX_BRIEF_DIFF_CHARACTERS]}... [{len(diff)} characters]"}


# With it each command and each edit is asked for.
STRICTEST_POLICY = "untrusted"


@value
class Latitude:
    """What sessions may be allowed: the approval policies and the sandbox modes from the strictest to the bridge's own."""

    approval_policies: tuple[str, ...]
    sandbox_modes: tuple[str, ...]

    @property
    def approval_policy(self) -> str:
        """The bridge's own."""
        return self.approval_policies[-1]

    @property
    def sandbox_mode(self) -> str:
        """The bridge's own."""
        return self.sandbox_modes[-1]

    def limit(self, session: Session) -> None:
        """Take a session that was allowed more, by a bridge before this one, back to what this one allows.

        The strictest policy stays what it is, also where nobody can be asked and `never` is all there is.
        """
        if session.approval_policy not in (*self.approval_policies, STRICTEST_POLICY):
            session.approval_policy = self.approval_policy
        if session.sandbox_mode not in self.sandbox_modes:
            session.sandbox_mode = self.sandbox_mode


# The fields of a session that are stored; the rest is in its messages and events, or is about turns in progress.
STORED_FIELDS = (
    "workspace_root", "runtime", "mode", "context", "thread_id", "status", "last_error", "last_error_code", "usage",
    "approval_policy", "sandbox_mode", "thread_turn_id",
)  # fmt: skip


@dataclass(slots=True)
class Session:
    """A conversation, bound to a Codex thread once its first turn has started."""

    id: str
    workspace_root: str
    runtime: dict[str, Any]
    mode: SessionMode = SessionMode.WORKSPACE
    context: dict[str, Any] = field(default_factory=dict)
    approval_policy: str = STRICTEST_POLICY
    sandbox_mode: str = "read-only"
    thread_id: str | None = None
    # The last turn that Codex's thread has heard of, None when it has heard of none.
    thread_turn_id: str | None = None
    status: SessionStatus = SessionStatus.IDLE
    messages: list[Message] = field(default_factory=list)
    recent_events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_RECENT_EVENTS))
    last_error: str | None = None
    last_error_code: str | None = None
    # The agent messages that are not complete yet, by item id, in pieces.
    drafts: dict[str, list[str]] = field(default_factory=dict)
    # The turn that runs or is next, and those of this session that wait behind it.
    active_turn_id: str | None = None
    queue_position: int | None = None
    queued_turn_ids: list[str] = field(default_factory=list)
    # What a person is asked, the oldest first.
    pending_approvals: list[Approval] = field(default_factory=list)
    usage: dict[str, int] | None = None
    created_at: int = field(default_factory=now_ms)
    updated_at: int = field(default_factory=now_ms)

    def copy(self) -> Session:
        """Return a copy whose fields and messages can be changed beside the original; drafts, events and approvals are the same."""
        return replace(self, messages=list(self.messages), queued_turn_ids=list(self.queued_turn_ids))

    def to_state(self) -> dict[str, Any]:
        """Return what is stored of a session besides its id, its times and its messages."""
        return {name: getattr(self, name) for name in STORED_FIELDS}

    def assistant_draft(self) -> str:
        """Return what the running turn's unfinished answer says so far."""
        return "\n\n".join("".join(pieces) for pieces in self.drafts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the whole session: all messages and the newest events."""
        messages = [message.to_json() for message in self.messages]
        approval = self.pending_approvals[0].to_json() if self.pending_approvals else None
        return self._json(messages, list(self.recent_events), approval)

    def to_brief_json(self) -> dict[str, Any]:
        """Return the session as its stream tells it: `messages` holds the newest of the latest turn, `events` none.

        Its size does not grow with the conversation, so a stream's does not grow quadratically.
        """
        latest: list[dict[str, Any]] = []
        for message in reversed(self.messages):
            if message.turn_id != self.messages[-1].turn_id or len(latest) == MAX_BRIEF_MESSAGES:
                break
            latest.append(message.to_json())
        approval = self.pending_approvals[0].to_brief_json() if self.pending_approvals else None
        return self._json(latest[::-1], [], approval)

    def _json(
        self, messages: list[dict[str, Any]], events: list[dict[str, Any]], approval: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "thread_id": self.thread_id,
            "status": self.status,
            "mode": self.mode,
            "context": self.context,
            "messages": messages,
            "message_count": len(self.messages),
            "events": events,
            "running": self.status is SessionStatus.RUNNING,
            "pending_approval": approval,
            "pending_approvals": len(self.pending_approvals),
            "last_error": self.last_error,
            "last_error_code": self.last_error_code,
            "assistant_draft": self.assistant_draft(),
            "workspace_root": self.workspace_root,
            "approval_policy": self.approval_policy,
            "sandbox_mode": self.sandbox_mode,
            "active_turn_id": self.active_turn_id,
            "queue_position": self.queue_position,
            "queued_turn_ids": list(self.queued_turn_ids),
            "usage": self.usage,
            "runtime": self.runtime,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }
