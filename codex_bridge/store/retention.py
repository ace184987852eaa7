"""What is old: finds it and deletes it, in steps that are small whatever the size of the database.

Looking is a query, deleting a write, so the writer is never kept for what only has to be found.
"""

from __future__ import annotations

from ..adapters.database import Connection, Query, Write
from ..values import value
from .statements import execute_for_each, find_all

# The tables that hold rows of a session, the largest first, and what tells how large a row is.
_TABLES = (
    ("events", "length(data)"),
    ("items", "length(item)"),
    ("messages", "length(text)"),
    ("turns", "0"),
    ("approvals", "length(approval)"),
)


@value
class Unused:
    """A session with the time at which it was used last; both together are a cursor."""

    updated_at: int
    key: int
    id: str


def select_least_used(limit: int, after: Unused | None = None) -> Query[list[Unused]]:
    """Find the sessions that were used longest ago, behind `after`."""
    values = (-1, 0) if after is None else (after.updated_at, after.key)
    return find_all(
        "SELECT updated_at, key, id FROM sessions WHERE (updated_at, key) > (?, ?)"
        " ORDER BY updated_at, key LIMIT ?",
        *values, limit, make=Unused,
    )  # fmt: skip


def has_garbage() -> Query[bool]:
    """Say whether rows of deleted sessions are left."""

    def query(connection: Connection) -> bool:
        return connection.execute("SELECT 1 FROM garbage LIMIT 1").fetchone() is not None

    return query


def clear_garbage(max_rows: int, max_bytes: int) -> Write:
    """Delete rows of deleted sessions, up to `max_rows` and about `max_bytes` of them."""

    def write(connection: Connection) -> None:
        rows, size = 0, 0
        # Some sessions have hardly any rows: each counts as one.
        found = connection.execute("SELECT session_key FROM garbage LIMIT ?", (max_rows,)).fetchall()
        for (key,) in found:
            for table, length in _TABLES:
                doomed: list[tuple[int]] = []
                for rowid, row_size in connection.execute(
                    f"SELECT rowid, {length} FROM {table} WHERE session_key = ? LIMIT ?",
                    (key, max_rows - rows),
                ):
                    doomed.append((rowid,))
                    size += row_size
                    if size >= max_bytes:
                        break
                connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", doomed)
                rows += len(doomed)
                if rows >= max_rows or size >= max_bytes:
                    return
            connection.execute("DELETE FROM garbage WHERE session_key = ?", (key,))
            rows += 1

    return write


def select_old_chunks(
    after_key: int, max_sessions: int, max_chunks: int, keep: int, keep_always: int, before: int
) -> Query[tuple[list[int], int | None]]:
    """Find chunks of events that may go, in up to `max_sessions` sessions behind `after_key`.

    Of each session the newest `keep` events stay, but those of a time before `before` only as far as they are among
    the newest `keep_always`; a chunk that holds one that stays, stays. Returns up to `max_chunks`, and the key to go
    on behind: None at the end.
    """

    def query(connection: Connection) -> tuple[list[int], int | None]:
        keys = connection.execute(
            "SELECT key FROM sessions WHERE key > ? ORDER BY key LIMIT ?", (after_key, max_sessions)
        ).fetchall()
        chunks: list[int] = []
        for (key,) in keys:
            last_id = _last_old_chunk(connection, key, keep, keep_always, before)
            if last_id is not None:
                found = connection.execute(
                    "SELECT id FROM events WHERE session_key = ? AND id <= ? ORDER BY id LIMIT ?",
                    (key, last_id, max_chunks - len(chunks)),
                )
                chunks += [row[0] for row in found]
                if len(chunks) >= max_chunks:
                    return chunks, key - 1  # it may have more
        return chunks, keys[-1][0] if len(keys) == max_sessions else None

    return query


def _last_old_chunk(
    connection: Connection, session_key: int, keep: int, keep_always: int, before: int
) -> int | None:
    ends = "SELECT epoch, first_seq, last_seq, created_at FROM events WHERE session_key = ? ORDER BY id"
    oldest = connection.execute(f"{ends} LIMIT 1", (session_key,)).fetchone()
    if oldest is None:
        return None
    newest = connection.execute(f"{ends} DESC LIMIT 1", (session_key,)).fetchone()
    # Mostly this tells without a look at what lies between: in one epoch numbers have no gaps.
    if oldest[0] == newest[0] and oldest[3] >= before and newest[2] - oldest[1] < keep:
        return None
    count = 0
    for chunk_id, first_seq, last_seq, created_at in connection.execute(
        "SELECT id, first_seq, last_seq, created_at FROM events WHERE session_key = ? ORDER BY id DESC",
        (session_key,),
    ):
        if count >= keep or (created_at < before and count >= keep_always):
            return int(chunk_id)
        count += last_seq - first_seq + 1
    return None


def delete_chunks(ids: list[int]) -> Write:
    """Delete chunks of events."""
    return execute_for_each("DELETE FROM events WHERE id = ?", ids)


def select_old_answers(before: int, limit: int) -> Query[list[int]]:
    """Find some of the answers to idempotency keys that were given before a time."""
    return find_all(
        "SELECT position FROM idempotency WHERE created_at < ? ORDER BY created_at LIMIT ?",
        before,
        limit,
        make=int,
    )


def delete_answers(positions: list[int]) -> Write:
    """Delete answers to idempotency keys."""
    return execute_for_each("DELETE FROM idempotency WHERE position = ?", positions)


def select_free_pages() -> Query[tuple[int, int]]:
    """Find how many pages of the file hold nothing, and how many there are."""

    def query(connection: Connection) -> tuple[int, int]:
        free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
        pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
        return free, pages

    return query


def give_back(pages: int) -> Write:
    """Give free pages back to the file system."""

    def write(connection: Connection) -> None:
        # One by one: of the rows of this statement, one for each page, Python's module would fetch the first alone.
        for _ in range(pages):
            connection.execute("PRAGMA incremental_vacuum(1)")

    return write
