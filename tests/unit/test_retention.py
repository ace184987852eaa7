"""Retention: what is old goes, what is in use or wanted stays, and no step is large."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.adapters import database as database_module
from codex_bridge.adapters import database_file
from codex_bridge.adapters.database import Connection, Database
from codex_bridge.errors import BridgeError, Conflict, NotFound, StoreDamaged, Unavailable
from codex_bridge.limits import IDEMPOTENCY_KEEP_S, MIN_KEPT_EVENTS
from codex_bridge.model import Message, Role, now_ms
from codex_bridge.services import retention as retention_module
from codex_bridge.services.retention import Keep, Retention
from codex_bridge.store import events, idempotency, items, messages, retention, sessions
from codex_bridge.store.idempotency import IdempotencyRow
from tests.unit.loop import on_loop
from tests.unit.store import files, frames, opened, session, until
from tests.unit.test_database import locked

DAY_MS = 24 * 3600 * 1000
EVERYTHING = Keep(sessions=1000, days=1000, events=1000, event_days=1000)


class Host:
    """What retention is given to delete sessions with, as the session service does it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.in_use: set[int] = set()
        self.busy: set[str] = set()
        self.gone: set[str] = set()
        self.troubles: list[BridgeError] = []
        self.deleted: list[str] = []

    async def delete(self, session_id: str) -> None:
        if self.troubles:
            raise self.troubles.pop()
        if session_id in self.busy:
            raise Conflict("It runs.")
        if session_id in self.gone:
            raise NotFound("It is gone.")
        key = await self.database.read(sessions.select_key(session_id))
        assert key is not None
        await self.database.commit(sessions.delete(key))
        self.deleted.append(session_id)

    def retention(self, keep: Keep, **options: float) -> Retention:
        return Retention(
            self.database, keep, self.delete, self.in_use.__contains__, **{"pause_s": 0, **options}
        )


async def with_sessions(database: Database, count: int, days: int = 0) -> None:
    """Store sessions; the first was used longest ago, a day before the second, and so on."""
    now = now_ms()
    for key in range(1, count + 1):
        used = now - (count - key + days) * DAY_MS
        await database.commit(sessions.insert(session(key, updated_at=used)), sync=False)


async def left(database: Database) -> list[int]:
    return [int(name[2:]) for name in await database.read(sessions.select_page(1000))][::-1]


def rows(table: str) -> Any:
    def query(connection: Connection) -> int:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found

    return query


class TestSessions:
    @on_loop
    async def test_beyond_the_number_those_used_longest_ago_go(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 10)
            host = Host(database)
            await host.retention(Keep(7, 1000, 1000, 1000)).run_once()
            assert host.deleted == ["s_1", "s_2", "s_3"]
            assert await left(database) == [4, 5, 6, 7, 8, 9, 10]

    @on_loop
    async def test_those_that_nobody_used_for_long_go(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 10)
            host = Host(database)
            await host.retention(Keep(1000, 4, 1000, 1000)).run_once()
            assert await left(database) == [7, 8, 9, 10]

    @on_loop
    async def test_those_in_use_stay_and_the_next_ones_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention_module, "RETENTION_STEP_SESSIONS", 2)
        async with opened(tmp_path) as database:
            await with_sessions(database, 12)
            host = Host(database)
            host.in_use = {1, 2, 3, 5}
            host.busy, host.gone = {"s_6"}, {"s_7"}
            await host.retention(Keep(9, 1000, 1000, 1000)).run_once()
            assert host.deleted == ["s_4", "s_8", "s_9"]

    @on_loop
    async def test_when_all_are_in_use_none_goes(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 5, days=100)
            host = Host(database)
            host.in_use = set(range(1, 6))
            await host.retention(Keep(1, 1, 1, 1)).run_once()
            assert await left(database) == [1, 2, 3, 4, 5]

    @on_loop
    async def test_sessions_used_at_the_same_moment_are_each_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention_module, "RETENTION_STEP_SESSIONS", 2)
        async with opened(tmp_path) as database:
            await database.commit(*(sessions.insert(session(key, updated_at=5)) for key in range(1, 8)))
            host = Host(database)
            host.in_use = {1, 2, 3, 4}
            await host.retention(Keep(1000, 1, 1000, 1000)).run_once()
            assert await left(database) == [1, 2, 3, 4]


class TestDamages:
    @on_loop
    async def test_a_session_that_cannot_be_deleted_keeps_nothing_else(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 4)
            await database.commit(sessions.delete(4))
            host = Host(database)
            host.troubles.append(StoreDamaged("It lies where the database is damaged."))
            await host.retention(Keep(1, 1000, 1000, 1000)).run_once()
            assert host.deleted == ["s_2", "s_3"]
            assert await database.read(rows("garbage")) == 0

    @on_loop
    async def test_a_step_that_meets_a_damage_keeps_no_other(self, tmp_path: Path) -> None:
        old = now_ms() - int(IDEMPOTENCY_KEEP_S * 1000) - 1000
        async with opened(tmp_path) as database:
            await with_sessions(database, 3)
            await database.commit(sessions.delete(1))
            await database.commit(idempotency.insert(IdempotencyRow("a", "k", b"", 200, b"", old)))
            # An id that is no text is met by the look for the sessions used least.
            damage = "UPDATE sessions SET id = CAST(x'ff' AS TEXT) WHERE key = 2"
            await database.commit(lambda connection: void(connection.execute(damage)))
            await Host(database).retention(Keep(1, 1000, 1000, 1000)).run_once()
            assert await database.read(rows("garbage")) == await database.read(rows("idempotency")) == 0
            assert database.describe_state()["state"] == "failing"


def void(_: object) -> None:
    """Make nothing of a result."""


class TestEvents:
    @on_loop
    async def test_beyond_the_number_the_oldest_go(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 3)
            for first in range(1, 200, 10):
                for key in (1, 2):
                    chunk = events.insert_chunk(key, "e", first, frames("e", first, first + 9))
                    await database.commit(chunk, sync=False)
            await database.commit(events.insert_chunk(3, "e", 1, frames("e", 1, 60)))
            await Host(database).retention(Keep(1000, 1000, 75, 1000)).run_once()
            for key in (1, 2):
                # A chunk that holds one of the newest 75 stays whole.
                assert await database.read(events.select_newest(key, 999)) == frames("e", 121, 200)
                assert await database.read(events.select_after(key, "e", 119, 1)) is None
                assert await database.read(events.select_after(key, "e", 120, 1 << 30)) == (
                    frames("e", 121, 200), 200,
                )  # fmt: skip
            assert len(await database.read(events.select_newest(3, 999))) == 60

    @on_loop
    async def test_the_number_is_that_of_all_epochs(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            for epoch in ("e1", "e2", "e3"):
                for first in range(1, 60, 20):
                    chunk = events.insert_chunk(1, epoch, first, frames(epoch, first, first + 19))
                    await database.commit(chunk, sync=False)
            await Host(database).retention(Keep(1000, 1000, 100, 1000)).run_once()
            newest = frames("e2", 21, 60) + frames("e3", 1, 60)
            assert await database.read(events.select_newest(1, 999)) == newest

    @on_loop
    async def test_old_ones_go_but_for_the_last(self, tmp_path: Path) -> None:
        old, new = now_ms() - 8 * DAY_MS, now_ms()
        async with opened(tmp_path) as database:
            await with_sessions(database, 2)
            for first in range(1, 200, 10):
                for key in (1, 2):
                    at = new if key == 2 and first > 100 else old
                    chunk = events.insert_chunk(key, "e", first, frames("e", first, first + 9), at)
                    await database.commit(chunk, sync=False)
            await Host(database).retention(Keep(1000, 1000, 1000, 7)).run_once()
            assert len(await database.read(events.select_newest(1, 999))) == MIN_KEPT_EVENTS
            assert await database.read(events.select_newest(2, 999)) == frames("e", 101, 200)

    @on_loop
    async def test_a_session_with_many_takes_several_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention_module, "RETENTION_STEP_ROWS", 7)
        monkeypatch.setattr(retention_module, "RETENTION_STEP_SESSIONS", 2)
        async with opened(tmp_path) as database:
            await with_sessions(database, 5)
            for seq in range(1, 101):
                for key in range(1, 6):
                    await database.commit(
                        events.insert_chunk(key, "e", seq, frames("e", seq, seq)), sync=False
                    )
            largest = await largest_transaction(
                database, Host(database).retention(Keep(1000, 1000, 60, 1000))
            )
            assert 0 < largest <= 7
            for key in range(1, 6):
                assert await database.read(events.select_newest(key, 999)) == frames("e", 41, 100)


async def largest_transaction(database: Database, one: Retention) -> int:
    """Run a round and return the rows of its largest transaction."""
    counts = [0]

    def note(statement: str) -> None:
        if statement.startswith("DELETE FROM") and "garbage" not in statement:
            counts[-1] += 1
        elif statement == "COMMIT":
            counts.append(0)

    def trace(connection: Any) -> None:
        connection.set_trace_callback(note)

    await database.commit(trace)
    await one.run_once()
    return max(counts)


class TestGarbage:
    async def fill(self, database: Database, key: int) -> None:
        message = Message("m", Role.USER, "a", "t", 1)
        writes = [messages.insert(key, number, message) for number in range(20)]
        writes += [items.insert(key, "t", {"id": f"{number}", "x": "y" * 1000}, 1) for number in range(20)]
        writes += [
            events.insert_chunk(key, "e", number, frames("e", number, number)) for number in range(1, 21)
        ]
        await database.commit(*writes, sync=False)

    @pytest.mark.parametrize(("max_rows", "max_bytes"), [(7, 1 << 30), (1000, 3000), (1000, 1 << 30), (1, 1)])
    @on_loop
    async def test_the_rows_of_deleted_sessions_go_in_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_rows: int, max_bytes: int
    ) -> None:
        monkeypatch.setattr(retention_module, "RETENTION_STEP_ROWS", max_rows)
        monkeypatch.setattr(retention_module, "RETENTION_STEP_BYTES", max_bytes)
        async with opened(tmp_path) as database:
            await with_sessions(database, 5)
            for key in (1, 2, 3):
                await self.fill(database, key)
            await database.commit(sessions.delete(1), sessions.delete(3), sessions.delete(5))
            largest = await largest_transaction(database, Host(database).retention(EVERYTHING))
            assert largest <= max_rows
            assert await database.read(rows("garbage")) == 0
            for table in ("messages", "items", "events"):
                assert await database.read(rows(table)) == 20
            assert len(await database.read(messages.select(2))) == 20

    @on_loop
    async def test_the_file_shrinks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention_module, "RETENTION_STEP_PAGES", 10)
        async with opened(tmp_path) as database:
            await with_sessions(database, 30)
            for key in range(1, 31):
                await self.fill(database, key)
        full = files(tmp_path)["bridge.db"].st_size
        async with opened(tmp_path) as database:
            await database.commit(sessions.delete_all())
            await database.commit(retention.clear_garbage(400, 1 << 30))
            before, _ = await database.read(retention.select_free_pages())
            await database.commit(retention.give_back(10))
            assert await database.read(retention.select_free_pages()) == (before - 10, full // 4096 - 10)
            await Host(database).retention(EVERYTHING).run_once()
            free, pages = await database.read(retention.select_free_pages())
            assert free * 4 <= pages or free < 10
        assert files(tmp_path)["bridge.db"].st_size < full / 4


@on_loop
async def test_answers_to_old_keys_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "RETENTION_STEP_ROWS", 3)
    old = now_ms() - int(IDEMPOTENCY_KEEP_S * 1000) - 1000
    async with opened(tmp_path) as database:
        for number in range(10):
            at = old if number != 4 else now_ms()
            await database.commit(idempotency.insert(IdempotencyRow("a", f"{number}", b"", 200, b"", at)))
        await Host(database).retention(EVERYTHING).run_once()
        found = [await database.read(idempotency.select("a", f"{number}")) for number in range(10)]
        assert [number for number, row in enumerate(found) if row is not None] == [4]


class TestBackground:
    @on_loop
    async def test_rounds_come_by_themselves_and_when_asked_for(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 3)
            host = Host(database)
            one = host.retention(Keep(2, 1000, 1000, 1000), first_s=0.01, interval_s=3600)
            one.start()
            await until(lambda: host.deleted == ["s_1"])
            await database.commit(sessions.insert(session(4)))
            one.wake()
            await until(lambda: len(host.deleted) == 2)
            await one.stop()

    @on_loop
    async def test_a_failing_database_does_not_end_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_file, "STORE_LOCK_WAIT_S", 0.01)
        monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.02)
        async with opened(tmp_path) as database:
            await with_sessions(database, 3)
            host = Host(database)
            one = host.retention(Keep(2, 1000, 1000, 1000), first_s=0, interval_s=0.005)
            with locked(tmp_path):
                one.start()
                await until(lambda: database.describe()["state"] == "failing")
            await until(lambda: host.deleted == ["s_1"])
            await one.stop()

    @on_loop
    async def test_a_session_that_cannot_be_deleted_now_does_not_end_it(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 3)
            host = Host(database)
            host.troubles.append(Unavailable("Not now."))
            one = host.retention(Keep(2, 1000, 1000, 1000), first_s=0, interval_s=0.005)
            one.start()
            await until(lambda: host.deleted == ["s_1"])
            await one.stop()

    @on_loop
    async def test_it_stops_in_the_middle_and_before_its_start(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 50)
            host = Host(database)
            one = host.retention(Keep(1, 1000, 1000, 1000), first_s=0, pause_s=0.001)
            await one.stop()
            one.start()
            await until(lambda: bool(host.deleted))
            await one.stop()
            assert 0 < len(host.deleted) < 49
            assert asyncio.all_tasks() == {asyncio.current_task()}
