"""Databases in trouble, each in a process of its own: `python -m tests.unit.store_faults SCENARIO DIRECTORY`.

Those that need a disk of their own run in a mount namespace of their own (see `test_store_faults`).
"""

import asyncio
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from codex_bridge.adapters import database as database_module
from codex_bridge.adapters.database import Database
from codex_bridge.errors import StartFailed, StoreFailed
from tests.unit.store import LOG, add, opened, texts, until

BOUND_S = 20.0
FREE, BALLAST = 1 << 20, 20 << 20


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def small_disk(directory: Path) -> Path:
    """Mount a disk with little room, and return the file to delete for more."""
    mount("-t", "tmpfs", "-o", f"size={FREE + BALLAST}", "none", str(directory))
    path = directory / "ballast"
    path.write_bytes(bytes(BALLAST))
    return path


async def write_for_ever(directory: Path) -> None:
    """Store number after number, and say each once it is said to be safe; somebody kills us."""
    async with opened(directory, LOG) as database:
        done = await database.read(texts())
        for number in itertools.count(len(done)):
            if number % 3:
                database.post(add(str(number)))
            else:
                await database.commit(add(str(number)), sync=number % 2 == 0)
                print(number, flush=True)


async def fill_the_disk(directory: Path) -> None:
    """Write until the disk is full; make room."""
    ballast = small_disk(directory)
    database_module.STORE_RETRY_S = 0.02  # type: ignore[attr-defined]
    expected: list[str] = []
    async with opened(directory, LOG) as database:
        failure = None
        for number in range(1000):
            text = f"{number} " + os.urandom(10_000).hex()
            try:
                await database.commit(add(text))
            except StoreFailed as problem:
                failure = problem
                break
            expected.append(text)
        assert failure is not None
        assert "database or disk is full" in failure.message, failure.message
        assert str(directory) in failure.message
        # Larger than what did not fit, so it does not fit in what is left either.
        kept = ["kept " + os.urandom(50_000).hex(), "kept, too"]
        for text in kept:
            database.post(add(text))
        for _ in range(5):
            assert database.describe()["state"] == "failing"
            assert "full" in database.describe()["problem"]
            assert await database.read(texts()) == expected
            try:
                await database.commit(add("refused"))
            except StoreFailed:
                await asyncio.sleep(0.03)
            else:
                raise AssertionError("a commit on a full disk was not refused")
        ballast.unlink()
        await until(lambda: database.describe()["state"] == "ok")
        await database.commit(add("taken"))
        assert await database.read(texts()) == [*expected, *kept, "taken"]
    check_integrity(directory)


async def close_on_a_full_disk(directory: Path) -> None:
    """Close while the last writes cannot be stored."""
    ballast = small_disk(directory)
    database = Database(str(directory / "bridge.db"), LOG)
    await database.open()
    await database.commit(add("stored"))
    database.post(add(os.urandom(2_000_000).hex()))
    await database.close()
    check_integrity(directory)
    ballast.unlink()
    async with opened(directory, LOG) as database:
        assert await database.read(texts()) == ["stored"]


async def open_on_a_full_disk(directory: Path) -> None:
    """Open where not even an empty database has room."""
    small_disk(directory)
    (directory / "more").write_bytes(bytes(FREE - 8192))
    try:
        await Database(str(directory / "bridge.db"), LOG).open()
    except StartFailed as problem:
        print(problem.message)
    else:
        raise AssertionError("a full disk was not noticed")


async def open_read_only(directory: Path) -> None:
    """Open where nothing can be written, with a database and without."""
    empty, full = directory / "empty", directory / "full"
    for path in (empty, full):
        path.mkdir()
    async with opened(full, LOG) as database:
        await database.commit(add("a"))
    before = (full / "bridge.db").read_bytes()
    mount("--bind", str(directory), str(directory))
    mount("-o", "remount,ro,bind", str(directory))
    for path in (empty, full):
        try:
            await Database(str(path / "bridge.db"), LOG).open()
        except StartFailed as problem:
            print(problem.message)
        else:
            raise AssertionError("a read-only directory was not noticed")
    assert (full / "bridge.db").read_bytes() == before


def lose_the_loop(directory: Path) -> None:
    """End an event loop without a close: what was posted is stored all the same."""
    path = directory / "bridge.db"

    async def main() -> None:
        database = Database(str(path), LOG)
        await database.open()
        holder.append(sqlite3.connect(path, isolation_level=None))
        holder[0].execute("BEGIN IMMEDIATE")
        waiting.append(asyncio.ensure_future(database.commit(add("a"))))
        await asyncio.sleep(0)
        database.post(add("b"))

    holder: list[sqlite3.Connection] = []
    waiting: list[asyncio.Future[None]] = []
    asyncio.run(main())
    holder[0].execute("ROLLBACK")

    async def stored() -> None:
        await until(lambda: holder[0].execute("SELECT count(*) FROM log").fetchone()[0] == 2)

    asyncio.run(asyncio.wait_for(stored(), BOUND_S))
    assert [thread.name for thread in threading.enumerate()[1:]] == ["store writer", "store reader"]


def check_integrity(directory: Path) -> None:
    connection = sqlite3.connect(directory / "bridge.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


if __name__ == "__main__":
    scenario, place = globals()[sys.argv[1]], Path(sys.argv[2])
    if asyncio.iscoroutinefunction(scenario):
        asyncio.run(asyncio.wait_for(scenario(place), None if scenario is write_for_ever else BOUND_S))
    else:
        scenario(place)
