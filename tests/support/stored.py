"""What a bridge has on disk, read beside it."""

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any


def rows(state: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Return what a query finds in the database of a state directory."""
    with closing(sqlite3.connect(f"file:{state}/bridge.db?mode=ro", uri=True)) as database:
        return database.execute(sql, values).fetchall()


def events(state: Path, session_id: str) -> bytes:
    """Return the stored events of a session, encoded."""
    found = rows(
        state, "SELECT data FROM events JOIN sessions ON events.session_key = sessions.key"
        " WHERE sessions.id = ? ORDER BY events.id", session_id,
    )  # fmt: skip
    return b"".join(zlib.decompress(data) for (data,) in found)


def dump(state: Path) -> bytes:
    """Return everything in the database, unpacked, to look things up in."""
    tables = [name for (name,) in rows(state, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    values = [value for table in tables for row in rows(state, f"SELECT * FROM {table}") for value in row]
    packed = [zlib.decompress(data) for (data,) in rows(state, "SELECT data FROM events")]
    return b"\0".join([*packed, *(v if isinstance(v, bytes) else str(v).encode() for v in values)])
