"""The turns: what was asked for, and what became of it."""

from __future__ import annotations

from typing import Any

from ..adapters.database import Query, Write
from ..errors import StoreDamaged
from ..values import value
from .columns import decode, encode
from .sessions import WHERE_SESSION
from .statements import execute, find_all

_COLUMNS = "id, session_key, status, request, created_at, started_at, ended_at, error"
# In these words, or SQLite does not see that its index holds just these.
_UNFINISHED = "status IN ('queued', 'running')"


@value
class TurnRow:
    """A turn. `request` is what is needed to run it, as long as it has not ended; `damage` says why it is lost."""

    id: str
    session_key: int
    status: str
    request: dict[str, Any] | None
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    error: dict[str, Any] | None = None
    damage: StoreDamaged | None = None


def insert(row: TurnRow) -> Write:
    """Store a new turn."""
    values = (
        row.id, row.session_key, row.status, encode(row.request), row.created_at, row.started_at, row.ended_at,
        encode(row.error), row.session_key,
    )  # fmt: skip
    return execute(f"INSERT INTO turns ({_COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ? {WHERE_SESSION}", *values)


def update(
    turn_id: str,
    status: str,
    *,
    started_at: int | None = None,
    ended_at: int | None = None,
    error: dict[str, Any] | None = None,
) -> Write:
    """Store a turn's new status; what is None stays as it is. The request of a turn that ends is forgotten."""
    return execute(
        "UPDATE turns SET status = ?, started_at = coalesce(?, started_at), ended_at = coalesce(?, ended_at),"
        " error = coalesce(?, error), request = CASE WHEN ? IS NULL THEN request END WHERE id = ?",
        status, started_at, ended_at, encode(error), ended_at, turn_id,
    )  # fmt: skip


def select_unfinished() -> Query[list[TurnRow]]:
    """Find the queued and running turns of all sessions, in the order in which they came; also damaged ones."""
    return find_all(
        f"SELECT {_COLUMNS} FROM turns WHERE {_UNFINISHED}"
        " AND EXISTS (SELECT 1 FROM sessions WHERE key = session_key) ORDER BY position",
        make=_row,
    )


def _row(*row: Any) -> TurnRow:
    turn_id, session_key, status, request, created_at, started_at, ended_at, error = row
    try:
        wanted, damage = decode(request), None
    except StoreDamaged as problem:
        wanted, damage = None, StoreDamaged(f"The turn {turn_id} cannot be run. {problem.message}")
    return TurnRow(
        turn_id, session_key, status, wanted, created_at, started_at, ended_at, decode(error), damage
    )
