"""The completed items of Codex: what a turn did, in its own words."""

from __future__ import annotations

from typing import Any

from ..adapters.database import Connection, Query, Write
from ..limits import MAX_PAGE_CHARACTERS
from ..values import value
from .columns import decode, encode
from .sessions import WHERE_SESSION
from .statements import execute


@value
class ItemRow:
    """A completed item. `position` grows with time and serves as a cursor."""

    position: int
    turn_id: str
    created_at: int
    item: dict[str, Any]


def insert(session_key: int, turn_id: str, item: dict[str, Any], created_at: int) -> Write:
    """Store an item; one of the same id takes the place of what the turn had under it."""
    return execute(
        "INSERT INTO items (session_key, turn_id, item_id, created_at, item)"
        f" SELECT ?, ?, ?, ?, ? {WHERE_SESSION}"
        " ON CONFLICT (session_key, turn_id, item_id) DO UPDATE SET item = excluded.item",
        session_key, turn_id, str(item.get("id", "")), created_at, encode(item), session_key,
    )  # fmt: skip


def select_page(
    session_key: int, limit: int, after: int | None = None, turn_id: str | None = None
) -> Query[tuple[list[ItemRow], bool]]:
    """Find up to `limit` items of a session, or of one turn of it, behind the position `after`, oldest first.

    Returns whether there are more, too. A page of large items ends early.
    """
    where = "session_key = ? AND position > ?"
    values: list[int | str] = [session_key, after or 0]
    if turn_id is not None:
        where += " AND turn_id = ?"
        values.append(turn_id)
    sql = f"SELECT position, turn_id, created_at, item FROM items WHERE {where} ORDER BY position LIMIT ?"

    def query(connection: Connection) -> tuple[list[ItemRow], bool]:
        page: list[ItemRow] = []
        size = 0
        for position, turn, created_at, item in connection.execute(sql, (*values, limit + 1)):
            if len(page) == limit or size > MAX_PAGE_CHARACTERS:
                return page, True
            size += len(item)
            page.append(ItemRow(position, turn, created_at, decode(item)))
        return page, False

    return query
