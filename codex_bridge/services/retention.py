"""Retention: deletes what is old, in the background.

Each step is a transaction of its own that takes milliseconds, with a pause behind it, so whatever is stored for a
turn never waits for more than one of them. What is found in one look is deleted; what grows old meanwhile is found
in the next round.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from .. import log
from ..adapters.database import Database
from ..errors import BridgeError, Conflict, NotFound, StoreDamaged
from ..limits import (
    IDEMPOTENCY_KEEP_S,
    MIN_KEPT_EVENTS,
    RETENTION_FIRST_S,
    RETENTION_INTERVAL_S,
    RETENTION_PAUSE_S,
    RETENTION_STEP_BYTES,
    RETENTION_STEP_PAGES,
    RETENTION_STEP_ROWS,
    RETENTION_STEP_SESSIONS,
)
from ..model import now_ms
from ..store import retention, sessions
from ..values import value

_DAY_MS = 24 * 3600 * 1000
# One page in so many may be free: the next events need it, and giving it back costs writing.
_FREE_SHARE = 4


@value
class Keep:
    """What is kept: sessions and days without use, events of one session and days for them (config.SETTINGS)."""

    sessions: int
    days: int
    events: int
    event_days: int


class Retention:
    """The background task. `delete_session(id)` deletes an idle session, `is_in_use(key)` says that one is not idle.

    What is damaged stays as it is, and keeps nothing else.
    """

    def __init__(
        self,
        database: Database,
        keep: Keep,
        delete_session: Callable[[str], Awaitable[None]],
        is_in_use: Callable[[int], bool],
        *,
        first_s: float = RETENTION_FIRST_S,
        interval_s: float = RETENTION_INTERVAL_S,
        pause_s: float = RETENTION_PAUSE_S,
    ) -> None:
        self._database = database
        self._keep = keep
        self._delete_session = delete_session
        self._is_in_use = is_in_use
        self._first_s = first_s
        self._interval_s = interval_s
        self._pause_s = pause_s
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin a first round soon, and another at each interval."""
        self._task = asyncio.create_task(self._run(), name="retention")

    def wake(self) -> None:
        """Begin a round now: sessions were deleted."""
        self._wanted.set()

    async def stop(self) -> None:
        """Give up between two steps."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def run_once(self) -> None:
        """Delete all that is old now; raise `StoreFailed` where the database fails as a whole."""
        for step in (
            self._delete_unused_sessions,
            self._clear_garbage,
            self._delete_old_events,
            self._delete_old_answers,
            self._give_back,
        ):
            with contextlib.suppress(StoreDamaged):  # the database has told it
                await step()

    async def _run(self) -> None:
        wait_s = self._first_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()
            self._wanted.clear()
            wait_s = self._interval_s
            try:
                await self.run_once()
            except BridgeError as problem:
                # What is old can wait; where the database fails it has said so itself.
                log.debug("What is old is not deleted now: %s", problem.message)

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_s)

    async def _delete_unused_sessions(self) -> None:
        before = now_ms() - self._keep.days * _DAY_MS
        excess = await self._database.read(sessions.count()) - self._keep.sessions
        last: retention.Unused | None = None
        while page := await self._database.read(retention.select_least_used(RETENTION_STEP_SESSIONS, last)):
            for last in page:
                if excess <= 0 and last.updated_at >= before:
                    return
                if self._is_in_use(last.key):
                    continue
                # It may be used or deleted at this very moment, or lie where nothing can be deleted.
                with contextlib.suppress(Conflict, NotFound, StoreDamaged):
                    await self._delete_session(last.id)
                    log.info("deleted the session %s: nobody used it, and it is old or one too many", last.id)
                    excess -= 1
                    await self._pause()

    async def _clear_garbage(self) -> None:
        while await self._database.read(retention.has_garbage()):
            await self._database.commit(
                retention.clear_garbage(RETENTION_STEP_ROWS, RETENTION_STEP_BYTES), sync=False
            )
            await self._pause()

    async def _delete_old_events(self) -> None:
        keep = max(self._keep.events, MIN_KEPT_EVENTS)
        before = now_ms() - self._keep.event_days * _DAY_MS
        key: int | None = 0
        while key is not None:
            chunks, key = await self._database.read(
                retention.select_old_chunks(
                    key, RETENTION_STEP_SESSIONS, RETENTION_STEP_ROWS, keep, MIN_KEPT_EVENTS, before
                )
            )
            if chunks:
                await self._database.commit(retention.delete_chunks(chunks), sync=False)
            await self._pause()

    async def _delete_old_answers(self) -> None:
        before = now_ms() - int(IDEMPOTENCY_KEEP_S * 1000)
        while found := await self._database.read(retention.select_old_answers(before, RETENTION_STEP_ROWS)):
            await self._database.commit(retention.delete_answers(found), sync=False)
            await self._pause()

    async def _give_back(self) -> None:
        while True:
            free, pages = await self._database.read(retention.select_free_pages())
            if free * _FREE_SHARE <= pages or free < RETENTION_STEP_PAGES:
                return
            await self._database.commit(retention.give_back(RETENTION_STEP_PAGES), sync=False)
            await self._pause()
