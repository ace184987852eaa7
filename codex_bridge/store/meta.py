"""Small things that the bridge remembers about itself."""

from __future__ import annotations

from ..adapters.database import Query, Write
from .statements import execute, find


def get(name: str) -> Query[str | None]:
    """Find a value."""
    return find("SELECT value FROM meta WHERE name = ?", name, make=str)


def set(name: str, value: str) -> Write:
    """Store a value in place of what was there."""
    return execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, value)
