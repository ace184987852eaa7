"""Small things that the bridge remembers about itself."""

from __future__ import annotations

from ..adapters.database import Connection, Query, Write


def get(name: str) -> Query[str | None]:
    """Find a value."""

    def query(connection: Connection) -> str | None:
        found = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    return query


def set(name: str, value: str) -> Write:
    """Store a value in place of what was there."""

    def write(connection: Connection) -> None:
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))

    return write
