"""The database: one SQLite file, a thread that writes to it and a thread that reads. Owns sqlite3.

The event loop never waits for the disk. A write or a query is a function of a connection (the modules of
`store` make them); the threads run it, and the loop learns of the outcome by a future.

* The writer takes all that waits and makes one transaction of it: whoever comes while the disk is busy is in the
  next one, so many commits cost as much as one. Each has a savepoint, so that one that cannot be stored fails alone.
* What is posted is gathered for a moment first; a commit waits for nothing. All is stored in the order of its coming.
* The writer is `ok` or `failing`. When the disk does not take a transaction (full, broken, read-only, locked for too
  long), the commits in it fail, what was posted is kept, and the writer tries again each second; until that works
  commits fail at once. Reads go on: their connection is one of its own.
* A disk may hang, and fail nothing. Who waits for it then waits on, since nobody knows what becomes of it; once that has
  taken long, who comes anew is refused at once.

A write may run more than once, and must have no effect but on the connection it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .. import log
from ..errors import StartFailed, StoreDamaged, StoreFailed
from ..limits import (
    MAX_TOLD_DAMAGES,
    MAX_WAITING_WRITES,
    STORE_CHECKPOINT_TRANSACTIONS,
    STORE_CLOSE_S,
    STORE_GATHER_S,
    STORE_RETRY_S,
    STORE_SLOW_S,
)
from .database_file import CORRUPT, DAMAGED, checkpoint, close_file, code_of, connect, open_file

if TYPE_CHECKING:
    import sqlite3  # at run time late, in the threads: it takes a start 4 ms

# Errors of a statement rather than of the disk, by SQLite's primary codes: ERROR, TOOBIG, CONSTRAINT, MISMATCH, MISUSE, RANGE.
_STATEMENT_ERRORS = frozenset({1, 18, 19, 20, 21, 25})


class Cursor(Protocol):
    """What a statement gives."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What a write or a query is given."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor: ...

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Cursor: ...


Result = TypeVar("Result")
Write = Callable[[Connection], None]
Query = Callable[[Connection], Result]


@dataclass(eq=False, slots=True)
class _Job:
    """Writes that are stored together, and who waits for it: nobody when they were posted.

    Those that are kept stay where they are in the order when the disk does not take them.
    """

    writes: tuple[Write, ...]
    waiter: asyncio.Future[None] | None = None
    is_sync: bool = False
    is_kept: bool = True
    problem: Exception | None = None


class Database:
    """A database file. `open` it once, `close` it once; everything in between from one event loop."""

    def __init__(self, path: str, migrations: Sequence[str]) -> None:
        self.path = os.path.abspath(path)
        self._migrations = migrations
        # Guards what follows; the writer waits on it. Never held during work.
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[_Job] = deque()
        # When the writer is to act (time.monotonic).
        self._due = math.inf
        # The writer is to end once everything is written, or could not be.
        self._is_ending = False
        self._has_given_up = False
        self._dropped = 0
        self._reads: deque[tuple[Query[Any], asyncio.Future[Any]] | None] = deque()
        self._read_wanted = threading.Semaphore(0)
        # Why the last transaction failed; None while the disk takes them.
        self._problem: str | None = None
        # Damaged places that were met, the newest last; the rest of the file is used on.
        self._damages: list[str] = []
        self._is_open = False
        self._bytes = 0
        # Device and inode of the files, by their suffix.
        self._files: dict[str, tuple[int, int] | None] = {}
        # Since when the threads are at a transaction and at a query.
        self._writing_since = self._reading_since = math.inf
        self._writer: _Worker | None = None
        self._reader: _Worker | None = None

    async def open(self) -> None:
        """Open the file, or make it, and bring it to the newest version.

        Raises `StartFailed` with the path and what can be done; then nothing in the file was changed.
        """
        opened = self._new_future()
        self._writer = _Worker("store writer", lambda: self._run_writer(opened))
        await opened
        self._reader = _Worker("store reader", self._run_reader)
        self._is_open = True

    def post(self, *writes: Write) -> None:
        """Store `writes` in one transaction, soon, behind all that came before; it is tried until the disk takes it."""
        lost = ""
        with self._changed:
            if not self._is_open or len(self._jobs) >= MAX_WAITING_WRITES:
                lost = self._lose()
            else:
                self._jobs.append(_Job(writes))
                if self._problem is None:
                    self._act_in(STORE_GATHER_S)
        if lost:
            log.error("%s", lost)

    async def commit(self, *writes: Write, sync: bool = True, keep: bool = False) -> None:
        """Store `writes` in one transaction, behind all that was posted before, and return once it is there.

        With `sync` it is safe against a power failure, else against the death of this process. Without writes it
        waits for what was posted. Raises `StoreFailed`, and then nothing of `writes` is stored; with `keep` they are
        from then on as if they had been posted when this was called. Who is cancelled while it waits does not call
        `writes` back.
        """
        problem = self._problem or _hang(self._writing_since)
        if problem is not None or not self._is_open:
            if keep:
                self.post(*writes)
            raise self._failure(problem or "it is not open")
        waiter = self._new_future()
        with self._changed:
            self._jobs.append(_Job(writes, waiter, sync, keep))
            self._act_in(0)
        await waiter

    async def read(self, query: Query[Result]) -> Result:
        """Return what `query` finds in what is stored by now; raise `StoreFailed`.

        It finds all that was committed, and of what was posted perhaps not the last.
        """
        problem = _hang(self._reading_since)
        if problem is not None or not self._is_open:
            raise self._failure(problem or "it is not open")
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._reads.append((query, waiter))
        self._read_wanted.release()
        return await waiter

    @property
    def is_well(self) -> bool:
        """Whether its threads run. A disk that fails or hangs is no reason to say no: a new process would not mend it."""
        workers = (self._writer, self._reader)
        return not self._is_open or all(worker is not None and worker.is_running for worker in workers)

    def describe_state(self) -> dict[str, Any]:
        """Return the state for people and programs: `ok` or `failing`, and why."""
        problem = self._problem or _hang(min(self._writing_since, self._reading_since))
        if problem is None and self._damages:
            problem = self._damages[-1]
        return {"state": "ok" if problem is None else "failing", "problem": problem}

    def describe(self) -> dict[str, Any]:
        """Return the state, where the database is, and its bytes on disk."""
        return {
            **self.describe_state(),
            "path": self.path,
            "bytes": self._bytes,
        }

    def note_damage(self, damage: StoreDamaged) -> None:
        """Log and remember that a place is damaged, once; also from the threads."""
        if damage.message not in self._damages and len(self._damages) < MAX_TOLD_DAMAGES:
            self._damages.append(damage.message)
            log.error("The database %s is damaged in a place: %s", self.path, damage.message)

    async def close(self) -> None:
        """Write what was posted, and end the threads; no longer than a bound for each. Also after half an opening."""
        self._is_open = False
        # The reader first: who closes last puts everything into the one file.
        if self._reader is not None:
            self._reads.append(None)
            self._read_wanted.release()
            await self._reader.join()
        if self._writer is not None:
            with self._changed:
                self._is_ending = True
                self._act_in(0)
            await self._writer.join()

    def _new_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def _lose(self) -> str:
        """Count a write that is lost; return what is to be logged of it. The lock is held."""
        self._dropped += 1
        if self._dropped > 1:
            return ""  # told already
        if not self._is_open:
            return f"A write is lost: the database {self.path} is not open."
        return f"{MAX_WAITING_WRITES} writes wait for the database {self.path}: what comes now is lost."

    def _act_in(self, seconds: float) -> None:
        """Have the writer act in `seconds` at the latest; the lock is held."""
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._changed.notify()

    def _failure(self, reason: str) -> StoreFailed:
        return StoreFailed(f"The database {self.path} cannot be used: {reason}.")

    # The writer's thread ------------------------------------------------------------------------

    def _run_writer(self, opened: asyncio.Future[None]) -> None:
        reason = "its thread has ended"
        jobs: list[_Job] | None = None
        try:
            connection = open_file(self.path, self._migrations)
            self._find_missing()
            self._measure()
            _settle([(opened, None, None)])
            transactions = 0
            while (jobs := self._take()) is not None:
                self._writing_since = time.monotonic()
                self._store(connection, jobs)
                transactions += 1
                if transactions % STORE_CHECKPOINT_TRANSACTIONS == 0:
                    self._writing_since = time.monotonic()
                    checkpoint(connection, "PASSIVE")
                    self._writing_since = math.inf
            close_file(connection)
            reason = "it is closed"
        except StartFailed as problem:
            _settle([(opened, None, problem)])
        finally:
            # Whatever ended it, nobody waits for it any more.
            with self._changed:
                self._problem = self._problem or reason
                left = [*(jobs or []), *self._jobs]
                self._jobs.clear()
            if left:
                log.error("%d writes are lost: the database %s: %s.", len(left), self.path, self._problem)
            waiters = [opened, *(job.waiter for job in left if job.waiter is not None)]
            _settle([(waiter, None, self._failure(reason)) for waiter in waiters])

    def _take(self) -> list[_Job] | None:
        """Wait until something is to be done; return all jobs, or None at the end."""
        with self._changed:
            while (left := self._due - time.monotonic()) > 0:
                self._changed.wait(None if left == math.inf else left)
            self._due = 0.0 if self._is_ending else math.inf
            if self._is_ending and (not self._jobs or self._has_given_up):
                return None
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs

    def _store(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        """Make one transaction of `jobs`, and tell who waits."""
        import sqlite3

        if (missing := self._find_missing()) is not None:
            self._fail(jobs, missing)
            return
        synchronous = "FULL" if any(job.is_sync for job in jobs) else "NORMAL"
        left, running = jobs, None
        while True:
            try:
                connection.execute(f"PRAGMA synchronous = {synchronous}")
                connection.execute("BEGIN IMMEDIATE")
                if self._problem is not None:
                    # Something must be written, or it is not known whether it can be.
                    connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
                for running in left:
                    _run(connection, running)
                running = None
                connection.execute("COMMIT")
            except (sqlite3.Error, MemoryError) as problem:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                if running is not None and code_of(problem) == CORRUPT:
                    # A damaged page is met by those alone who need it, but spoils the transaction for all.
                    running.problem = problem
                    left, running = [job for job in left if job is not running], None
                    continue
                self._fail(jobs, str(problem) or "out of memory")
                return
            self._succeed(jobs)
            return

    def _find_missing(self) -> str | None:
        """Say which file is not the one that was opened any more: SQLite would go on writing to what nobody finds again."""
        for suffix in ("", "-wal"):
            path = self.path + suffix
            try:
                found = os.stat(path)
            except OSError:
                identity = None
            else:
                identity = (found.st_dev, found.st_ino)
            if self._files.setdefault(suffix, identity) != identity:
                return f"{path} was removed or replaced while the bridge ran; start it again"
            if identity is None:
                del self._files[suffix]  # the -wal file comes with the first transaction
        return None

    def _fail(self, jobs: list[_Job], reason: str) -> None:
        """Keep what is to be kept, and tell who waits; also those that came meanwhile."""
        self._writing_since = math.inf
        with self._changed:
            is_new = self._problem is None
            self._problem = reason
            jobs = [*jobs, *self._jobs]
            self._jobs = deque(_Job(job.writes) for job in jobs if job.is_kept)
            self._has_given_up = self._is_ending
            self._due = time.monotonic() + (0 if self._is_ending else STORE_RETRY_S)
        if is_new:
            log.error("The database %s cannot be written: %s. Trying again.", self.path, reason)
        _settle([(job.waiter, None, self._failure(reason)) for job in jobs if job.waiter is not None])

    def _succeed(self, jobs: list[_Job]) -> None:
        self._writing_since = math.inf
        self._measure()
        with self._changed:
            was_failing, self._problem = self._problem is not None, None
            dropped, self._dropped = self._dropped, 0
            if was_failing and self._jobs:
                self._act_in(0)  # what was posted meanwhile set no time
        if was_failing or dropped:
            log.warning("The database %s can be written again; %d writes were lost.", self.path, dropped)
        outcomes: list[_Outcome] = []
        for job in jobs:
            problem = self._explain(job.problem)
            if job.waiter is not None:
                outcomes.append((job.waiter, None, problem))
            if job.is_kept and problem is not None:
                log.error("A write is lost: %s", problem)
        _settle(outcomes)

    def _explain(self, problem: Exception | None) -> Exception | None:
        """Return what a waiter is told of a job's problem; remember that the file is damaged."""
        import sqlite3

        damage = _damage_of(problem)
        if damage is not None:
            self.note_damage(damage)
            return damage
        return self._failure(str(problem)) if isinstance(problem, sqlite3.Error) else problem

    def _measure(self) -> None:
        self._bytes = sum(_size(self.path + suffix) for suffix in ("", "-wal"))

    # The reader's thread ------------------------------------------------------------------------

    def _run_reader(self) -> None:
        connection: sqlite3.Connection | None = None
        while True:
            self._read_wanted.acquire()
            read = self._reads.popleft()
            if read is None:
                break
            self._reading_since = time.monotonic()
            connection = self._answer(connection, *read)
        if connection is not None:
            connection.close()

    def _answer(
        self, connection: sqlite3.Connection | None, query: Query[Any], waiter: asyncio.Future[Any]
    ) -> sqlite3.Connection | None:
        """Run a query, and tell who waits; return the connection for the next one."""
        result, problem = None, None
        try:
            if connection is None:
                connection = connect(self.path, "ro")
            result = query(connection)
        except Exception as caught:  # noqa: BLE001 - it belongs to who waits for the result
            problem = caught
            _let_go(caught)
        self._reading_since = math.inf  # before it is told: who waited may come again at once
        _settle([(waiter, result, self._explain(problem))])
        return connection


def attempt(what: str, query: Query[Result]) -> Query[Result | StoreDamaged]:
    """Return a query that finds what `query` does; or, where its rows are damaged, a `StoreDamaged` that names `what`.

    So what else a reader is after is not lost with it. It is for the reader to say `note_damage`.
    """

    def run(connection: Connection) -> Result | StoreDamaged:
        import sqlite3

        try:
            return query(connection)
        except (sqlite3.Error, StoreDamaged) as problem:
            damage = _damage_of(problem)
            if damage is None:
                raise
            return StoreDamaged(f"{what} cannot be read. {damage.message}")
        except (KeyError, TypeError, ValueError):
            return StoreDamaged(f"{what} cannot be read. A row of the database is not as it was stored.")

    return run


class _Worker:
    """A thread that runs a function."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._run = run
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A daemon: a disk that hangs for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run_and_tell, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    async def join(self) -> None:
        """Wait for its end; tell when that does not come."""
        await asyncio.wait([self._ended], timeout=STORE_CLOSE_S)
        if self._ended.done():
            self._thread.join()
        else:
            log.error("The %s did not end in %d s: the disk hangs.", self._thread.name, STORE_CLOSE_S)

    def _run_and_tell(self) -> None:
        try:
            self._run()
        finally:
            _settle([(self._ended, None, None)])


_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


def _settle(outcomes: list[_Outcome]) -> None:
    """Tell the event loop of results, with one call for all of them."""
    if outcomes:
        # A loop that is gone has nobody who waits.
        with contextlib.suppress(RuntimeError):
            outcomes[0][0].get_loop().call_soon_threadsafe(_set_results, outcomes)


def _set_results(outcomes: list[_Outcome]) -> None:
    for waiter, result, problem in outcomes:
        if waiter.done():
            continue  # cancelled: it no longer wants to know
        if problem is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(problem)


def _run(connection: sqlite3.Connection, job: _Job) -> None:
    """Run the writes of a job so that they fail alone; raise sqlite3.Error when the whole transaction has failed."""
    job.problem = None
    connection.execute("SAVEPOINT job")
    try:
        for write in job.writes:
            write(connection)
    except Exception as problem:  # it belongs to who waits for the job
        if _is_of_the_disk(problem):
            raise
        connection.execute("ROLLBACK TO job")
        job.problem = problem
        _let_go(problem)
    connection.execute("RELEASE job")


def _let_go(problem: Exception) -> None:
    """End the results that a failed function was in the middle of.

    The exception holds them in its frames, and as long as it lives SQLite would keep their state of the database.
    """
    traceback.clear_frames(problem.__traceback__)


def _damage_of(problem: Exception | None) -> StoreDamaged | None:
    """Return what is told of a problem that is a damage of the file; None for another one."""
    import sqlite3

    if isinstance(problem, StoreDamaged):
        return problem
    if isinstance(problem, sqlite3.Error) and code_of(problem) in DAMAGED:
        return StoreDamaged(f"It lies where the database is damaged: {problem}.")
    if isinstance(problem, sqlite3.OperationalError) and code_of(problem) is None:
        # Python's own, and it quotes the text.
        return StoreDamaged("A row of the database is damaged: a text in it is no UTF-8.")
    return None


def _is_of_the_disk(problem: Exception) -> bool:
    """Say whether it is no fault of the statement's: others may fail, too."""
    code = code_of(problem)
    return isinstance(problem, MemoryError) or (code is not None and code not in _STATEMENT_ERRORS)


def _hang(since: float) -> str | None:
    """Say that the disk hangs, when a thread has been at it `since` so long ago."""
    return (
        f"the disk has not answered for {STORE_SLOW_S:g} s"
        if time.monotonic() - since > STORE_SLOW_S
        else None
    )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
