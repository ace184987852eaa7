"""Databases for tests: the bridge's own tables, or a log of texts in the order of their storing."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from codex_bridge.adapters.database import Connection, Database, Query, Write
from codex_bridge.store.schema import MIGRATIONS
from codex_bridge.store.sessions import SessionRow
from tests.unit.loop import BOUND_S

LOG = ("CREATE TABLE log (number INTEGER PRIMARY KEY, text TEXT UNIQUE)",)


@asynccontextmanager
async def opened(path: Path, migrations: Sequence[str] = MIGRATIONS) -> AsyncIterator[Database]:
    """An open database in the directory `path`, closed in the end."""
    database = Database(str(path / "bridge.db"), migrations)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@contextmanager
def held() -> Iterator[Callable[[Any], None]]:
    """A write or a query that does not end before the block does: a disk that hangs."""
    gate = threading.Event()

    def hold(_: Any) -> None:
        assert gate.wait(BOUND_S)

    try:
        yield hold
    finally:
        gate.set()


async def until(look: Callable[[], bool]) -> None:
    """Wait for what the threads do."""
    while not look():  # noqa: ASYNC110 - what is waited for happens in a thread
        await asyncio.sleep(0.002)


async def until_stored(database: Database, expected: list[str]) -> None:
    """Wait until the log holds what is expected."""
    while await database.read(texts()) != expected:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.002)


def files(directory: Path) -> dict[str, os.stat_result]:
    """Return the files of a directory."""
    return {entry.name: entry.stat() for entry in os.scandir(directory)}


def add(text: str) -> Write:
    """Return the write of one text in the log."""

    def write(connection: Connection) -> None:
        connection.execute("INSERT INTO log (text) VALUES (?)", (text,))

    return write


def trace(seen: list[str]) -> Write:
    """Return a write that has the writer's statements noted in `seen` from now on."""

    def write(connection: Any) -> None:
        connection.set_trace_callback(seen.append)

    return write


def texts() -> Query[list[str]]:
    """Return the query for all texts of the log, in the order of their storing."""

    def query(connection: Connection) -> list[str]:
        return [row[0] for row in connection.execute("SELECT text FROM log ORDER BY number")]

    return query


def session(key: int, **changes: Any) -> SessionRow:
    """Return a session's row."""
    values: dict[str, Any] = {
        "key": key, "id": f"s_{key}", "epoch": "e1", "seq": 0, "created_at": 1000 + key, "updated_at": 2000 + key,
        "state": {"mode": "workspace", "text": "\u00e9\u4e16 \"'"},
    }  # fmt: skip
    return SessionRow(**values | changes)


def frames(epoch: str, first: int, last: int, size: int = 10) -> list[bytes]:
    """Return encoded events, each of another content."""
    return [
        b'id: %b-%d\nevent: session.event\ndata: {"n":%d,"x":"%b"}\n\n'
        % (epoch.encode(), seq, seq, b"x" * size)
        for seq in range(first, last + 1)
    ]
