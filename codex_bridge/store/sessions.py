"""The sessions' rows: what a session is now, as JSON, and the number of its last event."""

from __future__ import annotations

from typing import Any

from ..adapters.database import Connection, Query, Write
from ..values import value
from .columns import decode, encode
from .statements import execute, find, find_all

# The end of an INSERT ... SELECT of what belongs to a session: of one that was deleted nothing is stored any more.
WHERE_SESSION = "WHERE EXISTS (SELECT 1 FROM sessions WHERE key = ?)"
_COLUMNS = "key, id, epoch, seq, created_at, updated_at, state"


@value
class SessionRow:
    """A session. `key` is its number, `id` its name outside; `epoch` and `seq` are those of its last event."""

    key: int
    id: str
    epoch: str
    seq: int
    created_at: int
    updated_at: int
    state: dict[str, Any]


def insert(row: SessionRow) -> Write:
    """Store a new session; its key is larger than `last_key`."""
    return execute(
        f"INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        row.key, row.id, row.epoch, row.seq, row.created_at, row.updated_at, encode(row.state),
    )  # fmt: skip


def update(row: SessionRow) -> Write:
    """Store what a session is now; nothing when it was deleted."""
    return execute(
        "UPDATE sessions SET epoch = ?, seq = ?, updated_at = ?, state = ? WHERE key = ?",
        row.epoch, row.seq, row.updated_at, encode(row.state), row.key,
    )  # fmt: skip


def select(session_id: str) -> Query[SessionRow | None]:
    """Find a session by its id."""
    return find(f"SELECT {_COLUMNS} FROM sessions WHERE id = ?", session_id, make=_row)


def select_page(limit: int, before_key: int | None = None) -> Query[list[str]]:
    """Find the ids of up to `limit` sessions, newest first, made before the one of `before_key`."""
    before = _LAST if before_key is None else before_key
    return find_all(
        "SELECT id FROM sessions WHERE key < ? ORDER BY key DESC LIMIT ?", before, limit, make=str
    )


def select_key(session_id: str) -> Query[int | None]:
    """Find the key of a session."""
    return find("SELECT key FROM sessions WHERE id = ?", session_id, make=int)


def select_id(key: int) -> Query[str | None]:
    """Find the id of a session by its key."""
    return find("SELECT id FROM sessions WHERE key = ?", key, make=str)


def count() -> Query[int]:
    """Count all sessions."""

    def query(connection: Connection) -> int:
        number: int = connection.execute("SELECT count(*) FROM sessions").fetchone()[0]
        return number

    return query


def last_key() -> Query[int]:
    """Find the largest key that was ever used, also by a session that is deleted; 0 when there was none."""

    def query(connection: Connection) -> int:
        found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'sessions'").fetchone()
        return 0 if found is None else found[0]

    return query


def delete(key: int) -> Write:
    """Delete a session. What belongs to it elsewhere becomes garbage, which `retention` clears in small steps."""

    def write(connection: Connection) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO garbage (session_key) SELECT key FROM sessions WHERE key = ?", (key,)
        )
        connection.execute("DELETE FROM sessions WHERE key = ?", (key,))

    return write


def delete_all() -> Write:
    """Delete all sessions, as `delete` does."""

    def write(connection: Connection) -> None:
        connection.execute("INSERT OR IGNORE INTO garbage (session_key) SELECT key FROM sessions")
        connection.execute("DELETE FROM sessions")

    return write


# Larger than any key.
_LAST = (1 << 63) - 1


def _row(*found: Any) -> SessionRow:
    key, session_id, epoch, seq, created_at, updated_at, state = found
    return SessionRow(key, session_id, epoch, seq, created_at, updated_at, decode(state))
