"""Sessions: create, get, list, delete. All are in the store; those in use, and some more, are in memory as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..adapters.database import attempt
from ..errors import InvalidField, NotFound, StoreDamaged, StoreFailed
from ..limits import (
    MAX_BRIEF_MESSAGES,
    MAX_EVENTS_LOOKED_THROUGH,
    MAX_LOADED_SESSIONS,
    MAX_PAGE_CHARACTERS,
    MAX_RESTING_CHARACTERS,
)
from ..model import STORED_FIELDS, Latitude, Message, Session, SessionMode, SessionStatus, new_id
from ..protocol import json_codec, sse
from ..store import events, items, messages, sessions
from ..store.items import ItemRow
from ..store.sessions import SessionRow
from .events import EventLog
from .live import LiveSession
from .recorder import Recorder
from .transcript import note_recent

if TYPE_CHECKING:
    from ..adapters.database import Connection, Database, Query, Write


class SessionService:
    """Owns all sessions."""

    def __init__(self, database: Database, recorder: Recorder, latitude: Latitude) -> None:
        self._database = database
        self._recorder = recorder
        self._latitude = latitude
        # Those in memory: all that somebody holds on to, and those kept, the one used last at the end.
        self._live: WeakValueDictionary[str, LiveSession] = WeakValueDictionary()
        self._kept: dict[str, LiveSession] = {}
        self._loading: dict[str, asyncio.Task[LiveSession]] = {}
        # The keys of those that are being deleted without being in memory.
        self._deleting: set[int] = set()
        self._last_key = 0
        self._count = 0
        # All up to this key were deleted together.
        self._all_gone_up_to = 0
        # Told that there is something to clear up.
        self.on_delete: Callable[[], None] = lambda: None
        # Called with a session that was deleted while it was in memory: what runs in it ends.
        self.on_forget: Callable[[LiveSession], None] = lambda live: None

    async def open(self) -> None:
        """Learn how many sessions there are; call it once, before all else."""
        self._last_key = await self._database.read(sessions.last_key())
        self._count = await self._database.read(sessions.count())

    async def create(
        self,
        workspace_root: str,
        runtime: dict[str, Any],
        mode: SessionMode,
        context: dict[str, Any],
        choice: dict[str, Any],
        approval_policy: str,
        sandbox_mode: str,
        also: Callable[[Session], Iterable[Write]] = lambda session: (),
    ) -> LiveSession:
        """Create an idle session; it is on disk, with what `also` returns, before this returns."""
        self._last_key += 1
        session = Session(new_id("s"), workspace_root, runtime, mode, context, approval_policy, sandbox_mode)
        live = LiveSession(self._last_key, session, choice)
        await self._database.commit(sessions.insert(live.to_row()), *also(live.session))
        self._count += 1
        self._keep(live)
        return live

    async def get(self, session_id: str) -> LiveSession:
        """Return a session; raise `NotFound`, or `StoreDamaged` for one that cannot be read."""
        live = self._live.get(session_id)
        if live is not None:
            self._kept.pop(session_id, None)
            self._kept[session_id] = live
            return live
        task = self._loading.get(session_id)
        if task is None:
            task = asyncio.create_task(self._load(session_id), name=f"loading of {session_id[:64]}")
            self._loading[session_id] = task
            task.add_done_callback(lambda done: self._loading.pop(session_id, None))
        return await asyncio.shield(task)

    async def list_page(self, limit: int, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """Return up to `limit` brief sessions, newest first, behind the session `cursor`; and the next cursor.

        Those that cannot be read are left out, and a page with long messages ends early.
        """
        before = None
        if cursor is not None:
            before = await self._database.read(sessions.select_key(cursor))
            if before is None:
                raise InvalidField("cursor", "cursor: there is no session with this id (any more).")
        found, has_more = await self._database.read(_reading_page(limit, before, self._latitude))
        in_memory = {name: live for name, _ in found if (live := self._live.get(name)) is not None}
        await asyncio.gather(*(self.catch_up(live) for live in in_memory.values() if live.log.is_held))
        page = []
        for session_id, brief in found:
            live = in_memory.get(session_id)
            if live is not None:
                page.append(live.session.to_brief_json())
            elif isinstance(brief, StoreDamaged):
                self._database.note_damage(brief)
            elif brief is not None:
                page.append(brief)
        return page, found[-1][0] if has_more else None

    async def catch_up(self, live: LiveSession) -> None:
        """Wait until a session shows nothing that a killed bridge would forget; not for long."""
        await self._recorder.catch_up(live)

    async def read_events(
        self, live: LiveSession, epoch: str, seq: int, max_bytes: int
    ) -> tuple[list[bytes], int] | None:
        """Return stored events behind `seq`, about `max_bytes` of them, and the number of the last; None for a gap."""
        try:
            return await self._database.read(events.select_after(live.key, epoch, seq, max_bytes))
        except StoreFailed:
            return None

    async def has_events(self, live: LiveSession, epoch: str, seq: int) -> bool:
        """Say whether the store has all of a session's events behind `seq`."""
        self._recorder.flush(live)
        await self._recorder.settle()
        try:
            return await self._database.read(events.has_all_after(live.key, epoch, seq, live.log.told_seq))
        except StoreFailed:
            return False

    async def read_items(
        self, live: LiveSession, limit: int, after: int, turn_id: str | None
    ) -> tuple[list[ItemRow], bool]:
        """Return up to `limit` completed items of a session, or of one turn, behind the position `after`; and whether there are more."""
        self._recorder.flush(live)
        await self._recorder.settle()
        return await self._database.read(items.select_page(live.key, limit, after, turn_id))

    def __len__(self) -> int:
        return self._count

    def is_loaded(self, session_id: str) -> bool:
        """Say whether a session is in memory, or about to be."""
        return session_id in self._live or session_id in self._loading

    def loaded(self) -> list[LiveSession]:
        """Return the sessions in memory: all in which something happens are among them."""
        return list(self._live.values())

    def is_in_use(self, key: int) -> bool:
        """Say whether something happens in a session, or somebody follows it."""
        return any(live.key == key and live.is_in_use for live in self._live.values())

    async def delete(self, live: LiveSession) -> None:
        """Forget a session and end its streams."""
        await self._database.commit(sessions.delete(live.key), sync=False)
        if self._forget(live):
            self._count -= 1
            self.on_delete()

    async def delete_row(self, session_id: str) -> LiveSession | None:
        """Delete a session without reading it: it may be damaged. Raise `NotFound`.

        Returns it where it is in memory; then it may have turns, whose end is the caller's affair.
        """
        live = self._live.get(session_id)
        if live is not None:
            await self.delete(live)
            return live
        key = await self._database.read(sessions.select_key(session_id))
        if key is None or key in self._deleting:
            raise _not_found(session_id)
        self._deleting.add(key)
        try:
            await self._database.commit(sessions.delete(key), sync=False)
        finally:
            is_counted = key in self._deleting  # else it went with all others meanwhile
            self._deleting.discard(key)
        if session_id in self._loading:
            # Somebody reads it, perhaps from before.
            await asyncio.wait([self._loading[session_id]])
        live = self._live.get(session_id)
        if is_counted and (live is None or self._forget(live)):
            self._count -= 1
            self.on_delete()
        return live

    async def delete_all(self) -> tuple[int, list[LiveSession]]:
        """Forget all sessions; return how many there were, and those in memory, whose turns are the caller's affair."""
        last_key = self._last_key
        await self._database.commit(sessions.delete_all(), sync=False)
        # What was stored before it was counted before: the store tells in the order in which things came.
        count, self._count = self._count, 0
        self._deleting.clear()
        self._all_gone_up_to = last_key
        gone = [live for live in self.loaded() if live.key <= last_key and self._forget(live)]
        self.on_delete()
        return count, gone

    def _forget(self, live: LiveSession) -> bool:
        if live.is_deleted:
            return False
        live.is_deleted = True
        self._live.pop(live.session.id, None)
        self._kept.pop(live.session.id, None)
        live.log.close()
        self.on_forget(live)
        return True

    async def _load(self, session_id: str) -> LiveSession:
        reading = attempt(f"The session {session_id[:64]}", _reading_session(session_id, self._latitude))
        found = await self._database.read(reading)
        if isinstance(found, StoreDamaged):
            self._database.note_damage(found)
            raise found
        if found is None:
            raise _not_found(session_id)
        row, session, next_position, frames = found
        if row.key <= self._all_gone_up_to:
            raise _not_found(session_id)  # it was read from before
        for frame in frames:
            name, data = sse.decode_event(frame)
            if name == "session.event":
                note_recent(session, json_codec.decode(data))
        live = LiveSession(row.key, session, dict(row.state.get("choice", {})), EventLog(row.epoch, row.seq))
        live.lacks_key = row.state.get("had_key", False)
        live.next_position, live.shown_position = next_position, next_position - 1
        self._keep(live)
        live.log.rest()
        return live

    def _keep(self, live: LiveSession) -> None:
        """Keep a session in memory, and let go of those that nobody has used for long."""
        self._live[live.session.id] = self._kept[live.session.id] = live
        self._recorder.follow(live)
        session_id = live.session.id
        live.log.on_rest = lambda: self._rest(session_id)
        while len(self._kept) > MAX_LOADED_SESSIONS:
            oldest = next(iter(self._kept))
            # Whoever still works with it holds on to it, so there are never two of one session.
            del self._kept[oldest]

    def _rest(self, session_id: str) -> None:
        """Let go of a large session in which nothing happens."""
        live = self._kept.get(session_id)
        if live is None or live.session.active_turn_id is not None:
            return
        if sum(len(message.text) for message in live.session.messages) > MAX_RESTING_CHARACTERS:
            del self._kept[session_id]


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"There is no session {session_id[:64]!r}.", code="session_not_found")


_Stored = tuple[SessionRow, Session, int, list[bytes]]
# None: it was deleted in this very moment.
_Brief = dict[str, Any] | StoreDamaged | None


def _reading_session(session_id: str, latitude: Latitude) -> Query[_Stored | None]:
    """Return what reads a session: its row, what that makes, the place of its next message, its newest events."""

    def read(connection: Connection) -> _Stored | None:
        row = sessions.select(session_id)(connection)
        if row is None:
            return None
        newest = events.select_newest(row.key, MAX_EVENTS_LOOKED_THROUGH)(connection)
        next_position = messages.next_position(row.key)(connection)
        session = _to_session(row, messages.select(row.key)(connection), latitude)
        return row, session, next_position, newest

    return read


def _reading_page(
    limit: int, before: int | None, latitude: Latitude
) -> Query[tuple[list[tuple[str, _Brief]], bool]]:
    """Return what reads a page: the sessions' ids, each with its brief JSON, and whether there are more."""

    def read(connection: Connection) -> tuple[list[tuple[str, _Brief]], bool]:
        names = sessions.select_page(limit + 1, before)(connection)
        page: list[tuple[str, _Brief]] = []
        size = 0
        for name in names[:limit]:
            if size > MAX_PAGE_CHARACTERS:
                break
            brief = attempt(f"The session {name}", _reading_brief(name, latitude))(connection)
            if isinstance(brief, dict):
                size += sum(len(message["text"]) for message in brief["messages"])
            page.append((name, brief))
        return page, len(names) > len(page)

    return read


def _reading_brief(session_id: str, latitude: Latitude) -> Query[dict[str, Any] | None]:
    def read(connection: Connection) -> dict[str, Any] | None:
        row = sessions.select(session_id)(connection)
        if row is None:
            return None
        newest = messages.select_newest(row.key, MAX_BRIEF_MESSAGES)(connection)
        session = _to_session(row, newest, latitude)
        return {**session.to_brief_json(), "message_count": row.state["message_count"]}

    return read


def _to_session(row: SessionRow, all_messages: list[Message], latitude: Latitude) -> Session:
    session = Session(
        row.id,
        messages=all_messages,
        created_at=row.created_at,
        updated_at=row.updated_at,
        **{name: value for name, value in row.state.items() if name in STORED_FIELDS},
    )
    session.status, session.mode = SessionStatus(session.status), SessionMode(session.mode)
    latitude.limit(session)
    return session
