"""Sessions: create, get, list, delete. Kept in memory, newest last, each with its event log."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..errors import InvalidField, NotFound, Unavailable
from ..limits import MAX_SESSIONS
from ..model import Session, SessionMode, new_id
from .events import EventLog


@dataclass(eq=False, slots=True)
class LiveSession:
    """A session with its event log, and its own choice of backend (services.runtime_config), which may hold a key."""

    session: Session
    choice: dict[str, Any] = field(default_factory=dict)
    log: EventLog = field(default_factory=EventLog)

    def emit(self, name: str) -> None:
        """Append an event that carries the session."""
        self.log.append(name, {"session": self.session.to_brief_json()})


class SessionService:
    """Owns all sessions."""

    def __init__(self) -> None:
        self._sessions: dict[str, LiveSession] = {}

    def create(
        self,
        workspace_root: str,
        runtime: dict[str, Any],
        mode: SessionMode,
        context: dict[str, Any],
        choice: dict[str, Any],
    ) -> LiveSession:
        """Create an idle session."""
        if len(self._sessions) >= MAX_SESSIONS:
            raise Unavailable(
                f"There are {MAX_SESSIONS} sessions; delete some first.", code="too_many_sessions"
            )
        session = Session(new_id("s"), workspace_root, runtime, mode, context)
        live = self._sessions[session.id] = LiveSession(session, choice)
        return live

    def get(self, session_id: str) -> LiveSession:
        """Return a session or raise `NotFound`."""
        live = self._sessions.get(session_id)
        if live is None:
            raise NotFound(f"There is no session {session_id[:64]!r}.", code="session_not_found")
        return live

    def list_page(self, limit: int, cursor: str | None) -> tuple[list[Session], str | None]:
        """Return up to `limit` sessions, newest first, behind the session `cursor`; and the next cursor."""
        newest_first = reversed(self._sessions.values())
        if cursor is not None:
            if cursor not in self._sessions:
                raise InvalidField("cursor", "cursor: there is no session with this id (any more).")
            for live in newest_first:
                if live.session.id == cursor:
                    break
        page = [live.session for live in islice(newest_first, limit + 1)]
        next_cursor = page[limit - 1].id if len(page) > limit else None
        return page[:limit], next_cursor

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[LiveSession]:
        return list(self._sessions.values())

    def delete(self, live: LiveSession) -> None:
        """Forget a session and end its streams."""
        del self._sessions[live.session.id]
        live.log.close()
