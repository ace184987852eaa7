"""How long a bridge with many sessions takes to start, and to answer for one of them."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ..bridge import Bridge
from ..context import Bench
from ..report import Row
from . import store

HOW = "spawn to the first 200 of a bridge whose database holds {held}, against one whose state directory is empty, in turn"
HOW_READ = "the first GET of an old session right after that start, against one of a session just made"


def measure(bench: Bench) -> list[Row]:
    """Start bridges on a full and on an empty database in turn."""
    sessions = store.QUICK_SESSIONS if bench.quick else store.SESSIONS
    state = bench.new_directory("restart")
    bench.say(f"storing {sessions} sessions of 100 events")
    filled = store.run(bench, "fill", state / "bridge.db", sessions)
    ids = old_ids(state / "bridge.db")
    full: list[float] = []
    empty: list[float] = []
    old: list[float] = []
    new: list[float] = []

    def start_full() -> None:
        with Bridge(bench, CODEX_BRIDGE_STATE_DIR=state) as bridge:
            full.append(bridge.start_seconds * 1000)
            old.append(read(bridge, ids[len(full) * 37 % len(ids)]))

    def start_empty() -> None:
        with Bridge(bench) as bridge:
            empty.append(bridge.start_seconds * 1000)
            new.append(read(bridge, bridge.create(1)[0]))

    bench.alternate(bench.runs(9, 3) + 1, "start", start_full, start_empty)
    how = HOW.format(held=f"{sessions:,} sessions and {filled['events']:,} events")
    return [
        Row("restart", "ms", full[1:], how, "empty", empty[1:]),
        Row("  read an old session", "ms", old[1:], HOW_READ, "a new one", new[1:]),
    ]


def old_ids(path: Path) -> list[str]:
    """Return the ids of the sessions in a database."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return [row[0] for row in database.execute("SELECT id FROM sessions ORDER BY key")]


def read(bridge: Bridge, session_id: str) -> float:
    """Return the milliseconds of one GET of a session."""
    started = time.perf_counter()
    answer = bridge.connection.call("GET", f"/chat/sessions/{session_id}")
    taken = (time.perf_counter() - started) * 1000
    assert answer["session"]["id"] == session_id, json.dumps(answer)[:200]
    return taken
