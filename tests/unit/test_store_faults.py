"""What becomes of the store when the process is killed, the disk is full, or the file is damaged."""

import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.adapters import database as database_module
from codex_bridge.adapters.database import Connection, Database
from codex_bridge.errors import StartFailed, StoreFailed
from codex_bridge.store import events, retention, sessions
from tests.unit.loop import on_loop
from tests.unit.store import LOG, add, frames, opened, session, texts, trace, until, until_stored

REPOSITORY = Path(__file__).resolve().parents[2]
BOUND_S = 60.0
PAGE = 4096


def run(scenario: str, directory: Path, *before: str) -> str:
    """Run a scenario to its end and return what it printed."""
    argv = [*before, sys.executable, "-m", "tests.unit.store_faults", scenario, str(directory)]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_with_mounts(scenario: str, directory: Path) -> str:
    """Run a scenario that mounts disks: in namespaces of its own, as Codex's sandbox makes them, too."""
    return run(scenario, directory, "unshare", "--user", "--map-root-user", "--mount")


class TestKill:
    def test_what_was_committed_is_there_after_a_kill(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-m", "tests.unit.store_faults", "write_for_ever", str(tmp_path)]
        last = -1
        for _ in range(6):
            with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for _ in range(random.randint(1, 60)):
                    last = int(child.stdout.readline())
                child.kill()
                # What it said until then counts; its last line may have been cut off.
                last = max([last, *map(int, child.stdout.read().split("\n")[:-1])])
            stored = self.stored(tmp_path)
            # All in their order, without a hole, and nothing short of what was said.
            assert stored == [str(number) for number in range(len(stored))]
            assert len(stored) > last

    def stored(self, directory: Path) -> list[str]:
        connection = sqlite3.connect(directory / "bridge.db")
        found = [row[0] for row in connection.execute("SELECT text FROM log ORDER BY number")]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        return found

    def test_the_end_of_the_loop_does_not_end_the_writer(self, tmp_path: Path) -> None:
        run("lose_the_loop", tmp_path)


class TestDisk:
    def test_a_full_disk_refuses_commits_keeps_posts_and_comes_back(self, tmp_path: Path) -> None:
        run_with_mounts("fill_the_disk", tmp_path)

    def test_a_close_on_a_full_disk_ends(self, tmp_path: Path) -> None:
        run_with_mounts("close_on_a_full_disk", tmp_path)

    def test_a_start_on_a_full_disk_is_refused(self, tmp_path: Path) -> None:
        message = run_with_mounts("open_on_a_full_disk", tmp_path)
        assert message.startswith(f"Cannot open the database {tmp_path}/bridge.db: ")

    def test_a_start_in_a_read_only_directory_is_refused(self, tmp_path: Path) -> None:
        for line in run_with_mounts("open_read_only", tmp_path).splitlines():
            assert line.startswith(f"Cannot open the database {tmp_path}/")
            assert line.endswith(": Read-only file system.")

    @on_loop
    async def test_no_more_pages_than_sqlite_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.02)
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("before"), limit_pages(20))
            with pytest.raises(StoreFailed, match="database or disk is full"):
                await database.commit(add("x" * 20 * PAGE))
            assert await database.read(texts()) == ["before"]
            # There is room for less.
            await until(lambda: database.describe()["state"] == "ok")
            await database.commit(add("after"), limit_pages(1000))
            await database.commit(add("y" * 20 * PAGE))
            assert len(await database.read(texts())) == 3
        logged = capsys.readouterr().err
        assert "cannot be written: database or disk is full" in logged
        assert "can be written again; 0 writes were lost" in logged

    @on_loop
    async def test_errors_of_the_operating_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.02)
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("before"))
            with largest_file(PAGE):
                database.post(add("kept " + "x" * 10 * PAGE))
                with pytest.raises(StoreFailed, match="disk I/O error"):
                    await database.commit(add("refused"))
                with pytest.raises(StoreFailed, match="disk I/O error"):
                    await database.commit(add("refused"))
                assert await database.read(texts()) == ["before"]
            await until(lambda: database.describe()["state"] == "ok")
            await database.commit(add("after"))
            found = await database.read(texts())
            assert [text[:6] for text in found] == ["before", "kept x", "after"]

    @on_loop
    async def test_it_is_well_again_only_when_something_could_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.005)
        statements: list[str] = []
        async with opened(tmp_path, LOG) as database:
            await database.commit(add("before"), trace(statements))
            with largest_file(PAGE):
                with pytest.raises(StoreFailed, match="disk I/O error"):
                    await database.commit(add("refused"))
                for _ in range(3):
                    statements.clear()
                    await until(lambda: "ROLLBACK" in statements or "COMMIT" in statements)
                    assert database.describe()["state"] == "failing"
            await until(lambda: database.describe()["state"] == "ok")

    @on_loop
    async def test_what_comes_while_it_gets_well_is_stored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.005)
        entered, gate = threading.Event(), threading.Event()

        def gated(connection: Connection) -> None:
            entered.set()
            assert gate.wait(BOUND_S)
            add("gated")(connection)

        async with opened(tmp_path, LOG) as database:
            with largest_file(PAGE):
                with pytest.raises(StoreFailed, match="disk I/O error"):
                    await database.commit(add("refused"))
                database.post(gated)
                await until(entered.is_set)
            database.post(add("late"))
            gate.set()
            await until_stored(database, ["gated", "late"])

    @pytest.mark.parametrize(
        ("place", "reason"), [("nowhere/bridge.db", "No such file or directory"), ("", "Is a directory")]
    )
    @on_loop
    async def test_a_place_where_no_file_can_be(self, tmp_path: Path, place: str, reason: str) -> None:
        path = str(tmp_path / place)
        database = Database(path, LOG)
        with pytest.raises(StartFailed) as caught:
            await database.open()
        assert caught.value.message == f"Cannot open the database {path}: {reason}."
        await database.close()


def limit_pages(count: int) -> Any:
    def write(connection: Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {count}")

    return write


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the system refuse to write beyond `size` in any file of this process. (Python ignores the signal.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [os.urandom(10_000), b"text\n", b"SQLite format 3\x00" + os.urandom(8000), b"SQLite format 3\x00"],
        ids=["garbage", "text", "garbage behind the header", "the header alone"],
    )
    @on_loop
    async def test_a_file_that_is_no_database_is_refused_and_left_alone(
        self, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "bridge.db"
        path.write_bytes(content)
        database = Database(str(path), LOG)
        with pytest.raises(StartFailed) as caught:
            await database.open()
        await database.close()
        assert caught.value.code == "store_damaged"
        assert caught.value.message.startswith(f"The database {path} is damaged: ")
        assert "Move it away" in caught.value.message
        assert path.read_bytes() == content

    @on_loop
    async def test_a_database_that_lost_its_end_is_refused(self, tmp_path: Path) -> None:
        async with opened(tmp_path, LOG) as database:
            for number in range(20):
                await database.commit(add(f"{number}" * 2000), sync=False)
        path = tmp_path / "bridge.db"
        content = path.read_bytes()[: 2 * PAGE]
        path.write_bytes(content)
        with pytest.raises(StartFailed, match="is damaged: database disk image is malformed"):
            await Database(str(path), LOG).open()
        assert path.read_bytes() == content

    @on_loop
    async def test_the_database_of_another_program_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "bridge.db"
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE theirs (x)")
        other.close()
        before = path.read_bytes()
        with pytest.raises(StartFailed, match="is the database of another program"):
            await Database(str(path), LOG).open()
        assert path.read_bytes() == before

    @on_loop
    async def test_a_damaged_page_is_met_by_those_alone_who_need_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [session(key, state={"mark": f"mark-{key:04}-" + "x" * 3000}) for key in range(1, 41)]
        async with opened(tmp_path) as database:
            await database.commit(*(sessions.insert(row) for row in rows))
            await database.commit(events.insert_chunk(20, "e1", 1, frames("e1", 1, 9)))
        async with opened(tmp_path) as database:
            damage(tmp_path / "bridge.db", b"mark-0020-")
            for row in rows:
                if row.key == 20:
                    with pytest.raises(StoreFailed, match="malformed"):
                        await database.read(sessions.select(row.id))
                else:
                    assert await database.read(sessions.select(row.id)) == row
            assert await database.read(events.select_after(20, "e1", 0, 999)) == (frames("e1", 1, 9), 9)
            assert database.describe()["state"] == "failing"
            assert "malformed" in database.describe()["problem"]
            # Who writes there is told, who writes elsewhere is not disturbed, and nobody is kept waiting.
            with pytest.raises(StoreFailed, match="malformed"):
                await database.commit(sessions.update(rows[19]))
            database.post(sessions.update(rows[19]))
            await database.commit(sessions.insert(session(50)), sessions.update(session(1)))
            assert await database.read(sessions.select("s_50")) == session(50)
            assert await database.read(sessions.select("s_1")) == session(1)
            assert await database.read(retention.has_garbage()) is False
        logged = capsys.readouterr().err
        assert logged.count("is damaged in a place") == 1
        assert "A write is lost" in logged


def damage(path: Path, mark: bytes) -> None:
    """Overwrite the page of a database that holds `mark`."""
    content = path.read_bytes()
    assert content.count(mark) == 1
    page = content.index(mark) // PAGE
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xee" * PAGE)
