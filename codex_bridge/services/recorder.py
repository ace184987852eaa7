"""The recorder: writes what happens in sessions to the store.

Events and what goes with them are gathered for a moment and written together. What must outlive a killed bridge
before anybody is told of it is written by `secure`: the session's readers get it when it is stored, a
millisecond later. A store that fails or is slow holds nobody up for long: what it did not take is kept and
written when it does again.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import StoreFailed
from ..limits import MAX_HOLD_S, MAX_STORED_EVENT_BYTES, STORE_CLOSE_S, STORE_INTERVAL_S
from ..store import events, sessions

if TYPE_CHECKING:
    from ..adapters.database import Database, Write
    from .live import LiveSession


class Recorder:
    """Owns the way from sessions to the store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unstored: dict[int, LiveSession] = {}
        # Sessions of which the store has not taken all: they must not leave the memory.
        self._owed: set[LiveSession] = set()
        self._sweep_due: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, live: LiveSession) -> None:
        """Store the events of a session from now on."""

        # Weak, or session and log would hold each other in memory.
        found = weakref.ref(live)

        def on_unstored(is_much: bool) -> None:
            live = found()
            if live is None:
                return
            if is_much:
                self._begin(self._write(live, self.take(live)))
            else:
                self._mark(live)

        live.log.on_unstored = on_unstored

    def add(self, live: LiveSession, *writes: Write) -> None:
        """Store `writes` soon, with the session's next events."""
        live.writes += writes
        self._mark(live)

    def secure(self, live: LiveSession, *writes: Write) -> asyncio.Task[None]:
        """Store `writes`, the session and its events at once, and tell its readers then.

        Call it before the events are appended, in the same moment. It is no error when the store fails.
        """
        live.writes += writes
        live.log.hold()
        return self._begin(self._save(live))

    def flush(self, live: LiveSession) -> None:
        """Begin to write what there is of a session, apart from what comes."""
        if live.key in self._unstored:
            self._begin(self._write(live, self.take(live)))

    async def commit(self, writes: list[Write]) -> None:
        """Have all of `writes` on disk, or nothing of them; raise `StoreFailed`."""
        await self._database.commit(*writes)

    def take(self, live: LiveSession) -> list[Write]:
        """Return all that is to be written of a session, which is then as good as written."""
        self._unstored.pop(live.key, None)
        writes, live.writes = live.writes, []
        if live.is_deleted:
            return []
        for first, entries in _storable(live.log.take_unstored()):
            writes.append(events.insert_chunk(live.key, live.log.epoch, first, entries))
        writes.append(sessions.update(live.to_row()))
        return writes

    async def catch_up(self, live: LiveSession) -> None:
        """Wait until a session shows nothing that is still being stored; no longer than its stream waits."""
        if not live.log.is_held:
            return  # as nearly always: a time-out is not made for nothing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_HOLD_S):
                while live.log.is_held and self._tasks:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def settle(self) -> None:
        """Wait until what was begun to be written is written; not for long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=MAX_HOLD_S)

    async def close(self) -> None:
        """Write all that is left."""
        if self._sweep_due is not None:
            self._sweep_due.cancel()
        self._sweep()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STORE_CLOSE_S)

    def _mark(self, live: LiveSession) -> None:
        self._unstored[live.key] = live
        if self._sweep_due is None:
            self._sweep_due = asyncio.get_running_loop().call_later(STORE_INTERVAL_S, self._sweep)

    def _sweep(self) -> None:
        self._sweep_due = None
        for live in list(self._unstored.values()):
            self._begin(self._write(live, self.take(live)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="writing to the store")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _save(self, live: LiveSession) -> None:
        writing = asyncio.create_task(self._write(live, self.take(live)), name="writing to the store")
        try:
            await asyncio.wait([writing], timeout=MAX_HOLD_S)
        finally:
            live.log.release()
        await writing

    async def _write(self, live: LiveSession, writes: list[Write]) -> None:
        """Write what was taken of one session, in one transaction: what cannot be stored spoils nothing of others."""
        if not writes:
            return
        owed = set(self._owed)
        try:
            await self._database.commit(*writes, sync=False, keep=True)
        except StoreFailed:
            self._owed.add(live)
        else:
            # The store takes things in order: what it owed before is written as well.
            self._owed -= owed


def _storable(taken: tuple[int, list[bytes]] | None) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the runs of events that are stored, each with the number of its first: those too large are left out."""
    first, entries = taken or (0, [])
    run: list[bytes] = []
    for seq, entry in enumerate(entries, start=first):
        if len(entry) <= MAX_STORED_EVENT_BYTES:
            run.append(entry)
        elif run:
            yield seq - len(run), run
            run = []
    if run:
        yield first + len(entries) - len(run), run
