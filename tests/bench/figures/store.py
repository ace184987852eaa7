"""What the store takes and holds: events a second, the wait for a commit, bytes on disk, the time to open it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from ..context import CHECKOUT, Bench
from ..report import Row

SESSIONS, QUICK_SESSIONS = 10_000, 1_000
COMMITS, QUICK_COMMITS = 500, 100
HOW_POSTED = (
    "sessions of one turn of 100 events, 40 at a time, each posting a chunk of 5 events of 300 bytes in turn, until "
    "all of them are stored; messages, items and turns are stored beside them, not counted"
)
HOW_SYNC = "one event, committed and forced to the disk, before the next; against writing 4 KB to a file and fdatasync, in turn"
HOW_COMMIT = (
    "what a message's 202 waits for: session, message and turn in one commit, forced to the disk; likewise"
)
HOW_SIZE = (
    "the database with messages, items and turns, closed; against the bytes of its events as they are sent"
)
HOW_OPEN = "in a process of its own, the import of sqlite3 included"
HOW_LOAD = "a session, its messages and its newest 40 events, right after that"


def measure(bench: Bench) -> list[Row]:
    """Fill a database, then use it."""
    sessions = QUICK_SESSIONS if bench.quick else SESSIONS
    path = bench.new_directory("store") / "bridge.db"
    bench.say(f"storing {sessions} sessions of 100 events")
    filled = run(bench, "fill", path, sessions)
    opened: list[float] = []
    loaded: list[float] = []
    for number in range(bench.runs(9, 3)):
        times = run(bench, "load", path, 1 + number * sessions // 10)
        opened.append(times["open"] * 1000)
        loaded.append(times["load"] * 1000)
    bench.say("committing one by one")
    committed = run(bench, "commits", path, QUICK_COMMITS if bench.quick else COMMITS)
    bare = committed["fdatasync"]
    events = f"{filled['events']:,} events"
    return [
        Row(f"{events}, posted", "/s", [filled["events"] / filled["event_seconds"]], HOW_POSTED),
        Row(
            "events, one commit each", "/s", [1 / statistics.median(committed["event"])], HOW_SYNC,
            "fdatasync", [1 / statistics.median(bare)],
        ),
        Row("commit of a message", "ms", milliseconds(committed["message"]), HOW_COMMIT, "fdatasync", milliseconds(bare)),
        Row(
            f"{sessions:,} sessions, {events}", "MB", [filled["bytes"] / 1e6], HOW_SIZE,
            "as sent", [filled["event_bytes"] / 1e6],
        ),
        Row("  open it", "ms", opened, HOW_OPEN),
        Row("  load a session", "ms", loaded, HOW_LOAD),
    ]  # fmt: skip


def milliseconds(seconds: list[float]) -> list[float]:
    return [each * 1000 for each in seconds]


def run(bench: Bench, command: str, path: Path, number: int) -> dict[str, Any]:
    """Run a command of `tests.bench.store` to its end; raise RuntimeError when it fails."""
    argv = [bench.python, "-m", "tests.bench.store", command, str(path), str(number)]
    process = bench.processes.spawn(argv, bench.environment(), CHECKOUT, pipes=True)
    assert process.stdout is not None
    answer = process.stdout.read()
    status = process.wait()
    bench.processes.stop(process)
    if status != 0:
        raise RuntimeError(f"tests.bench.store {command} exited with status {status}")
    found: dict[str, Any] = json.loads(answer)
    return found
