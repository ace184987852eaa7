"""A session in memory, with its event log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..model import Message, Session
from ..store import messages
from ..store.sessions import SessionRow
from .events import EventLog

if TYPE_CHECKING:
    from ..adapters.database import Write


@dataclass(eq=False, slots=True, weakref_slot=True)
class LiveSession:
    """A session in memory: its key in the store, its event log, and its own choice of backend, which may hold a key.

    `lacks_key` says that its own provider's key is gone with the bridge that held it.
    """

    key: int
    session: Session
    choice: dict[str, Any] = field(default_factory=dict)
    log: EventLog = field(default_factory=EventLog)
    lacks_key: bool = False
    # The place of its next message, and the last place that is shown.
    next_position: int = 0
    shown_position: int = -1
    is_deleted: bool = False
    # What is to be written besides its row and its events.
    writes: list[Write] = field(default_factory=list)

    def take_position(self) -> int:
        """Return the place of the session's next message, which is then taken."""
        self.next_position += 1
        return self.next_position - 1

    def show(self, message: Message, position: int) -> None:
        """Add a message to those of the session; one that others overtook while it was stored is stored behind them."""
        if position < self.shown_position:
            taken, position = position, self.take_position()
            self.writes.append(messages.move(self.key, taken, position))
        self.shown_position = position
        self.session.messages.append(message)
        self.session.updated_at = message.created_at

    def emit(self, name: str) -> None:
        """Append an event that carries the session."""
        self.log.append(name, {"session": self.session.to_brief_json()})

    @property
    def is_in_use(self) -> bool:
        """Whether a turn runs or waits in it, or somebody follows it."""
        return self.session.active_turn_id is not None or self.log.has_readers

    def to_row(self) -> SessionRow:
        """Return what is stored of it besides messages and events. A key is not."""
        session, log = self.session, self.log
        choice = {name: value for name, value in self.choice.items() if name != "api_key"}
        state = {
            **session.to_state(),
            "choice": choice,
            "had_key": self.lacks_key or bool(self.choice.get("api_key")),
            "message_count": len(session.messages),
        }
        return SessionRow(
            self.key, session.id, log.epoch, log.seq, session.created_at, session.updated_at, state
        )
