"""The messages of the sessions, by their position in the conversation."""

from __future__ import annotations

from typing import Any

from ..adapters.database import Connection, Query, Write
from ..model import Message, Role
from .columns import decode, encode
from .sessions import WHERE_SESSION
from .statements import execute, find_all

_COLUMNS = "id, role, text, turn_id, created_at, attachments, incomplete"


def insert(session_key: int, position: int, message: Message) -> Write:
    """Store a message; `position` grows with each message of a session."""
    # Half a surrogate pair has no place in a database; it is told as elsewhere.
    text = message.text.encode(errors="replace").decode()
    values = (
        message.id, message.role.value, text, message.turn_id, message.created_at, encode(message.attachments or None), message.incomplete,
        session_key, position, session_key,
    )  # fmt: skip
    return execute(
        f"INSERT INTO messages ({_COLUMNS}, session_key, position) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? {WHERE_SESSION}",
        *values,
    )


def move(session_key: int, position: int, to: int) -> Write:
    """Give a message another place in its session, which is free."""
    return execute(
        "UPDATE messages SET position = ? WHERE session_key = ? AND position = ?", to, session_key, position
    )


def select(session_key: int) -> Query[list[Message]]:
    """Find all messages of a session, the first one first."""
    return find_all(
        f"SELECT {_COLUMNS} FROM messages WHERE session_key = ? ORDER BY position", session_key, make=_message
    )


def select_newest(session_key: int, limit: int) -> Query[list[Message]]:
    """Find the newest messages of a session, up to `limit`, the oldest of them first."""
    newest = find_all(
        f"SELECT {_COLUMNS} FROM messages WHERE session_key = ? ORDER BY position DESC LIMIT ?",
        session_key, limit, make=_message,
    )  # fmt: skip
    return lambda connection: newest(connection)[::-1]


def next_position(session_key: int) -> Query[int]:
    """Find the position of the message that a session gets next."""

    def query(connection: Connection) -> int:
        found: int = connection.execute(
            "SELECT coalesce(max(position) + 1, 0) FROM messages WHERE session_key = ?", (session_key,)
        ).fetchone()[0]
        return found

    return query


def _message(*row: Any) -> Message:
    message_id, role, text, turn_id, created_at, attachments, incomplete = row
    return Message(
        message_id, Role(role), text, turn_id, created_at,
        tuple(decode(attachments) or ()), bool(incomplete),
    )  # fmt: skip
