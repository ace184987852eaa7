"""The approvals: what Codex asked a person for, and what came of it."""

from __future__ import annotations

from typing import Any

from ..adapters.database import Query, Write
from ..values import value
from .columns import decode, encode
from .sessions import WHERE_SESSION
from .statements import execute, find, find_all

_COLUMNS = "id, session_key, turn_id, status, approval, decision, reason, created_at, settled_at"


@value
class ApprovalRow:
    """An approval. Its status is `pending` until it is settled."""

    id: str
    session_key: int
    turn_id: str
    status: str
    approval: dict[str, Any]
    decision: str | None
    reason: str | None
    created_at: int
    settled_at: int | None = None


def insert(row: ApprovalRow) -> Write:
    """Store a new approval."""
    values = (
        row.id, row.session_key, row.turn_id, row.status, encode(row.approval), row.decision, row.reason,
        row.created_at, row.settled_at, row.session_key,
    )  # fmt: skip
    return execute(
        f"INSERT INTO approvals ({_COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? {WHERE_SESSION}", *values
    )


def settle(approval_id: str, status: str, decision: str | None, reason: str | None, settled_at: int) -> Write:
    """Store what became of a pending approval; one that is settled stays as it is."""
    return execute(
        "UPDATE approvals SET status = ?, decision = ?, reason = ?, settled_at = ?"
        " WHERE id = ? AND status = 'pending'",
        status, decision, reason, settled_at, approval_id,
    )  # fmt: skip


def select(session_key: int, approval_id: str) -> Query[ApprovalRow | None]:
    """Find an approval of a session."""
    return find(
        f"SELECT {_COLUMNS} FROM approvals WHERE id = ? AND session_key = ?",
        approval_id,
        session_key,
        make=_row,
    )


def select_pending(session_key: int) -> Query[list[ApprovalRow]]:
    """Find the pending approvals of a session, the oldest first."""
    return find_all(
        f"SELECT {_COLUMNS} FROM approvals WHERE session_key = ? AND status = 'pending' ORDER BY rowid",
        session_key,
        make=_row,
    )


def _row(*row: Any) -> ApprovalRow:
    approval_id, session_key, turn_id, status, approval, decision, reason, created_at, settled_at = row
    return ApprovalRow(
        approval_id, session_key, turn_id, status, decode(approval), decision, reason, created_at,
        settled_at,
    )  # fmt: skip
