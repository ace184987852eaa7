"""The database adapter: order, groups, durability, what a failed write does, opening and migrations. Real files."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.adapters import database as database_module
from codex_bridge.adapters import database_file
from codex_bridge.adapters.database import Connection, Database
from codex_bridge.errors import StartFailed, StoreFailed
from codex_bridge.limits import STORE_RETRY_AFTER_S
from codex_bridge.store.schema import MIGRATIONS
from tests.unit.loop import on_loop
from tests.unit.store import LOG, add, files, held, opened, texts, trace, until, until_stored


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Keep everybody from writing, as a slow disk or a backup does; the end of the block lets them."""
    holder = sqlite3.connect(path / "bridge.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield holder
    finally:
        if holder.in_transaction:
            holder.execute("ROLLBACK")
        holder.close()


async def turns_of_the_loop(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestWriting:
    @on_loop
    async def test_everything_is_stored_in_the_order_of_its_coming(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            waiters = []
            for number in range(100):
                if number % 3 == 0:
                    waiters.append(
                        asyncio.create_task(database.commit(add(str(number)), sync=number % 2 == 0))
                    )
                    await asyncio.sleep(0)
                else:
                    database.post(add(str(number)))
            await asyncio.gather(*waiters)
            await database.commit()
            assert await database.read(texts()) == [str(number) for number in range(100)]

    @on_loop
    async def test_a_commit_returns_once_it_and_all_before_it_is_there(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            for number in range(20):
                database.post(add(f"posted {number}"))
                await database.commit(add(f"committed {number}"))
                other = sqlite3.connect(tmp_path / "bridge.db")
                assert other.execute("SELECT count(*) FROM log").fetchone()[0] == 2 * number + 2
                other.close()

    @on_loop
    async def test_what_is_posted_is_stored_though_nobody_waits(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            database.post(add("a"), add("b"))
            database.post(add("c"))
            await until_stored(database, ["a", "b", "c"])

    @on_loop
    async def test_what_waits_while_the_disk_is_busy_is_one_transaction(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            statements: list[str] = []
            await database.commit(trace(statements))
            statements.clear()
            with locked(tmp_path):
                first = asyncio.create_task(database.commit(add("first")))
                # The writer has taken it: it stands in BEGIN.
                await until(lambda: "BEGIN IMMEDIATE" in statements)
                others = [asyncio.create_task(database.commit(add(str(number)))) for number in range(50)]
                await turns_of_the_loop()
                assert not first.done()
                assert not any(task.done() for task in others)
            await asyncio.gather(first, *others)
            assert statements.count("COMMIT") == 2
            assert len(await database.read(texts())) == 51

    @on_loop
    async def test_posts_are_gathered_until_a_commit_comes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_GATHER_S", 3600.0)
        async with opened(tmp_path, LOG) as database:
            database.post(add("a"))
            await turns_of_the_loop()
            database.post(add("b"))
            assert await database.read(texts()) == []
            await database.commit(add("c"))
            await until_stored(database, ["a", "b", "c"])

    @on_loop
    async def test_only_a_group_with_a_sync_commit_is_forced_to_the_disk(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            statements: list[str] = []
            await database.commit(trace(statements))
            await database.commit(add("a"), sync=False)
            assert "PRAGMA synchronous = NORMAL" in statements
            assert "PRAGMA synchronous = FULL" not in statements
            database.post(add("b"))
            await database.commit(add("c"))
            assert statements.count("PRAGMA synchronous = FULL") == 1

    @on_loop
    async def test_a_commit_that_cannot_be_stored_fails_alone_and_whole(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            with locked(tmp_path):
                outcomes = [
                    asyncio.create_task(database.commit(*writes))
                    for writes in (
                        [add("a"), add("b")], [add("c"), add("a"), add("d")], [broken, add("e")], [add("f"), broken],
                        [add("g")],
                    )
                ]  # fmt: skip
                await turns_of_the_loop()
            results = await asyncio.gather(*outcomes, return_exceptions=True)
            assert [type(result) for result in results] == [
                type(None), StoreFailed, ZeroDivisionError, ZeroDivisionError, type(None),
            ]  # fmt: skip
            assert "UNIQUE constraint failed: log.text" in str(results[1])
            assert await database.read(texts()) == ["a", "b", "g"]
            assert database.describe()["state"] == "ok"

    @on_loop
    async def test_a_post_that_cannot_be_stored_is_told_in_the_log_and_holds_up_nobody(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with opened(tmp_path, LOG) as database:
            database.post(add("a"))
            database.post(add("b"), add("a"))
            database.post(broken)
            await database.commit(add("c"))
            assert await database.read(texts()) == ["a", "c"]
        logged = capsys.readouterr().err
        assert "UNIQUE constraint failed" in logged
        assert "division by zero" in logged

    @on_loop
    async def test_a_waiter_that_is_gone_disturbs_nobody(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            with locked(tmp_path):
                tasks = [asyncio.create_task(database.commit(add(text))) for text in "abc"]
                reading = asyncio.create_task(database.read(texts()))
                await turns_of_the_loop()
                tasks[1].cancel()
                reading.cancel()
            await asyncio.gather(tasks[0], tasks[2])
            await asyncio.wait([tasks[1], reading])
            assert tasks[1].cancelled()
            await database.commit(add("d"))
            assert await database.read(texts()) == ["a", "b", "c", "d"]

    @on_loop
    async def test_a_slow_disk_keeps_neither_the_loop_nor_readers(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("before"))
            with locked(tmp_path):
                database.post(add("posted"))
                commit = asyncio.create_task(database.commit(add("committed")))
                for _ in range(20):
                    assert await database.read(texts()) == ["before"]
                assert not commit.done()
                assert database.describe()["state"] == "ok"
            await commit
            assert await database.read(texts()) == ["before", "posted", "committed"]

    @on_loop
    async def test_a_disk_that_is_too_slow_is_failing_and_comes_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_file, "STORE_LOCK_WAIT_S", 0.01)
        monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.02)
        async with opened(tmp_path, LOG) as database:
            with locked(tmp_path):
                database.post(add("kept"))
                with pytest.raises(StoreFailed, match="database is locked"):
                    await database.commit(add("refused"))
                assert database.describe()["state"] == "failing"
                # Those that come now are refused without being tried.
                with pytest.raises(StoreFailed, match="database is locked"):
                    await database.commit(add("refused at once"))
                database.post(add("kept, too"))
                assert await database.read(texts()) == []
                assert database.is_well
            await until(lambda: database.describe()["state"] == "ok")
            await database.commit(add("taken"))
            assert await database.read(texts()) == ["kept", "kept, too", "taken"]

    @on_loop
    async def test_a_disk_that_hangs_is_told_and_nothing_new_waits_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_SLOW_S", 0.05)
        async with opened(tmp_path, LOG) as database:
            with held() as hold:
                hanging = asyncio.create_task(database.commit(hold, add("waits on")))
                await until(lambda: database.describe_state()["state"] == "failing")
                assert "has not answered" in database.describe()["problem"]
                for keep in (False, True):
                    with pytest.raises(StoreFailed, match="has not answered"):
                        await database.commit(add(f"kept: {keep}"), keep=keep)
                assert await database.read(texts()) == []
                assert not hanging.done()
                monkeypatch.undo()  # or what comes now may be too slow, too
            await hanging
            await database.commit(add("taken"))
            assert await database.read(texts()) == ["waits on", "kept: True", "taken"]
            assert database.describe_state()["state"] == "ok"

    @on_loop
    async def test_a_disk_that_hangs_between_two_transactions_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_SLOW_S", 0.05)
        monkeypatch.setattr(database_module, "STORE_CHECKPOINT_TRANSACTIONS", 2)
        async with opened(tmp_path, LOG) as database:
            with held() as hold:

                def trace_writer(connection: Any) -> None:
                    connection.set_trace_callback(lambda sql: hold(sql) if "checkpoint" in sql else None)

                await database.commit(trace_writer)
                await database.commit(add("stored"))
                await until(lambda: database.describe_state()["state"] == "failing")
            await until(lambda: database.describe_state()["state"] == "ok")

    @on_loop
    async def test_a_disk_that_hangs_when_it_is_read_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_SLOW_S", 0.05)
        async with opened(tmp_path, LOG) as database:
            with held() as hold:
                hanging = asyncio.create_task(database.read(hold))
                await until(lambda: database.describe_state()["state"] == "failing")
                with pytest.raises(StoreFailed, match="has not answered"):
                    await database.read(texts())
                await database.commit(add("stored"))
                monkeypatch.undo()
            await hanging
            assert await database.read(texts()) == ["stored"]
            assert database.describe_state()["state"] == "ok"

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @on_loop
    async def test_the_end_of_the_thread_leaves_nobody_waiting(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def end_the_thread(connection: Connection) -> None:
            raise SystemExit

        async with opened(tmp_path, LOG) as database:
            with locked(tmp_path):
                # The writer has taken the first when the others come.
                tasks = [asyncio.create_task(database.commit(end_the_thread))]
                await asyncio.sleep(0)
                await until(lambda: not database._jobs)
                tasks += [asyncio.create_task(database.commit(add(text))) for text in "ab"]
                await turns_of_the_loop()
                assert database.is_well
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StoreFailed] * 3
            await until(lambda: not database.is_well)  # nothing but a new process mends it
            with pytest.raises(StoreFailed, match="its thread has ended"):
                await database.commit(add("c"))
            assert database.describe()["state"] == "failing"
            assert await database.read(texts()) == []
        assert "writes are lost" in capsys.readouterr().err

    @on_loop
    async def test_writes_that_pile_up_are_bounded_and_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(database_module, "MAX_WAITING_WRITES", 3)
        async with opened(tmp_path, LOG) as database:
            with locked(tmp_path):
                statements: list[str] = []
                first = asyncio.create_task(database.commit(trace(statements)))
                await asyncio.sleep(0)
                await until(lambda: not database._jobs)  # the writer has taken it
                for number in range(6):
                    database.post(add(str(number)))
            await first
            await database.commit()
            assert await database.read(texts()) == ["0", "1", "2"]
        logged = capsys.readouterr().err
        assert logged.count("what comes now is lost") == 1
        assert "3 writes were lost" in logged

    @on_loop
    async def test_a_failure_is_a_503_that_says_when_to_come_again(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            with pytest.raises(StoreFailed) as caught:
                await database.commit(add("a"), add("a"))
        failure = caught.value
        assert (failure.status, failure.code) == (503, "store_unavailable")
        assert failure.headers == (("Retry-After", str(STORE_RETRY_AFTER_S)),)
        assert str(tmp_path / "bridge.db") in failure.message


class TestReading:
    @on_loop
    async def test_a_read_sees_what_was_committed(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            for number in range(20):
                await database.commit(add(str(number)), sync=False)
                assert len(await database.read(texts())) == number + 1

    @on_loop
    async def test_a_query_cannot_write(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            with pytest.raises(StoreFailed, match="readonly"):
                await database.read(add("a"))
            assert await database.read(texts()) == []

    @on_loop
    async def test_a_query_that_fails_fails_alone(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("a"), add("b"))
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    await database.read(half_read)
                with pytest.raises(StoreFailed, match="no such table"):
                    await database.read(lambda connection: connection.execute("SELECT * FROM nowhere"))
                assert await database.read(texts()) == ["a", "b"]

    @on_loop
    async def test_a_query_that_broke_off_does_not_keep_the_log_of_writes_growing(
        self, tmp_path: Path
    ) -> None:
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("a"), add("b"))
            with pytest.raises(ZeroDivisionError) as caught:
                await database.read(half_read)
            await database.commit(add("c"))
            other = sqlite3.connect(tmp_path / "bridge.db")
            # A reader of an old state would leave pages that cannot be copied: (busy, in the log, copied).
            busy, pages, copied = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            other.close()
            assert (busy, copied) == (0, pages)
            assert caught.value.__traceback__ is not None  # it holds the query's frame


def broken(connection: Connection) -> None:
    connection.execute("INSERT INTO log (text) VALUES ('half')")
    raise ZeroDivisionError("division by zero")


def half_read(connection: Connection) -> None:
    found = connection.execute("SELECT text FROM log")
    assert found.fetchone() is not None
    raise ZeroDivisionError("division by zero")


NAMES = ("bridge.db", "bridge.db-wal", "bridge.db-shm")


def modes(directory: Path) -> dict[str, int]:
    return {name: stat.S_IMODE(found.st_mode) for name, found in files(directory).items()}


class TestOpening:
    @on_loop
    async def test_all_files_are_private_whatever_the_umask(self, tmp_path: Path) -> None:
        for number, umask in enumerate((0o000, 0o777)):
            directory = tmp_path / str(number)
            directory.mkdir()
            before = os.umask(umask)
            try:
                async with opened(directory, LOG) as database:
                    await database.commit(add("a"))
                    seen = modes(directory)
            finally:
                os.umask(before)
            assert seen == dict.fromkeys(NAMES, 0o600)

    @on_loop
    async def test_a_file_that_others_could_read_is_made_private(self, tmp_path: Path) -> None:
        path = tmp_path / "bridge.db"
        path.touch()
        path.chmod(0o644)
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("a"))
            assert modes(tmp_path) == dict.fromkeys(NAMES, 0o600)

    @on_loop
    async def test_what_was_stored_is_there_after_a_close_in_one_file(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("a"))
            database.post(add("b"))
            database.post(add("c"))
        assert list(files(tmp_path)) == ["bridge.db"]
        async with opened(tmp_path, LOG) as database:
            assert await database.read(texts()) == ["a", "b", "c"]
            assert database.describe() == {
                "state": "ok", "problem": None, "path": str(tmp_path / "bridge.db"),
                "bytes": sum(files(tmp_path)[name].st_size for name in NAMES[:2]),
            }  # fmt: skip

    @on_loop
    async def test_a_path_with_signs_that_mean_something_elsewhere(self, tmp_path: Path) -> None:
        directory = tmp_path / "a b?mode=memory#%41%"
        directory.mkdir()
        async with opened(directory, LOG) as database:
            await database.commit(add("a"))
            assert await database.read(texts()) == ["a"]
        assert list(files(directory)) == ["bridge.db"]

    @on_loop
    async def test_free_pages_can_be_given_back(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            assert await database.read(lambda c: c.execute("PRAGMA auto_vacuum").fetchone()[0]) == 2
            assert await database.read(lambda c: c.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"

    @on_loop
    async def test_after_the_end_writes_and_reads_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with opened(tmp_path, LOG) as database:
            pass
        with pytest.raises(StoreFailed):
            await database.commit(add("a"))
        with pytest.raises(StoreFailed):
            await database.read(texts())
        database.post(add("a"))
        assert "A write is lost" in capsys.readouterr().err
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("store")]

    @on_loop
    async def test_a_close_without_an_opening(self, tmp_path: Path) -> None:
        await Database(str(tmp_path / "bridge.db"), LOG).close()
        assert files(tmp_path) == {}

    @on_loop
    async def test_a_close_in_the_middle_of_the_opening(self, tmp_path: Path) -> None:
        database = Database(str(tmp_path / "bridge.db"), LOG)
        opening = asyncio.create_task(database.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await database.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("store")]

    @on_loop
    async def test_a_close_while_somebody_waits_leaves_nobody_waiting(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            with locked(tmp_path):
                tasks = [asyncio.create_task(database.commit(add(text))) for text in "abc"]
                await turns_of_the_loop()
                closing = asyncio.create_task(database.close())
                await turns_of_the_loop()
            await asyncio.gather(*tasks, closing)


class TestMigrations:
    FIRST = "CREATE TABLE a (x); INSERT INTO a VALUES (1)"
    SECOND = "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1"
    THIRD = "CREATE TABLE c AS SELECT x, y, x + y AS z FROM a"

    @on_loop
    async def test_they_are_applied_once_and_in_order(self, tmp_path: Path) -> None:
        for count in (1, 2, 3, 3):
            migrations = (self.FIRST, self.SECOND, self.THIRD)[:count]
            async with opened(tmp_path, migrations) as database:
                assert await database.read(version) == count
        async with opened(tmp_path, (self.FIRST, self.SECOND, self.THIRD)) as database:
            assert await database.read(lambda c: c.execute("SELECT * FROM c").fetchall()) == [(1, 2, 3)]

    @on_loop
    async def test_all_at_once(self, tmp_path: Path) -> None:
        async with opened(tmp_path, (self.FIRST, self.SECOND, self.THIRD)) as database:
            assert await database.read(lambda c: c.execute("SELECT * FROM c").fetchall()) == [(1, 2, 3)]

    @on_loop
    async def test_one_that_fails_leaves_nothing_of_itself_and_all_before_it(self, tmp_path: Path) -> None:
        bad = f"{self.SECOND}; INSERT INTO nowhere VALUES (1)"
        with pytest.raises(StartFailed, match="no such table: nowhere") as caught:
            await Database(str(tmp_path / "bridge.db"), (self.FIRST, bad, self.THIRD)).open()
        assert str(tmp_path / "bridge.db") in caught.value.message
        async with opened(tmp_path, (self.FIRST,)) as database:
            assert await database.read(version) == 1
            assert await database.read(lambda c: c.execute("SELECT * FROM a").fetchall()) == [(1,)]

    @on_loop
    async def test_a_newer_database_is_refused_and_not_written(self, tmp_path: Path) -> None:
        async with opened(tmp_path, (self.FIRST, self.SECOND)):
            pass
        path = tmp_path / "bridge.db"
        before = path.read_bytes()
        with pytest.raises(StartFailed) as caught:
            await Database(str(path), (self.FIRST,)).open()
        assert caught.value.code == "store_too_new"
        assert str(path) in caught.value.message
        assert "version 2" in caught.value.message
        assert path.read_bytes() == before

    @on_loop
    async def test_a_newer_one_that_was_killed_is_refused_and_not_written(self, tmp_path: Path) -> None:
        # Its last writes, the migration among them, are still in the -wal file.
        path, copy = tmp_path / "bridge.db", tmp_path / "copy"
        copy.mkdir()
        async with opened(tmp_path, (self.FIRST, self.SECOND)):
            for name in NAMES[:2]:
                (copy / name).write_bytes((tmp_path / name).read_bytes())
        before = {name: (copy / name).read_bytes() for name in NAMES[:2]}
        assert before["bridge.db-wal"]
        with pytest.raises(StartFailed) as caught:
            await Database(str(copy / path.name), (self.FIRST,)).open()
        assert caught.value.code == "store_too_new"
        assert {name: (copy / name).read_bytes() for name in before} == before

    @on_loop
    async def test_the_bridges_own_apply_to_nothing(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            assert await database.read(version) == len(MIGRATIONS)


def version(connection: Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found
