"""Services on a real store, for one test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from codex_bridge.adapters.database import Database
from codex_bridge.model import Latitude, SessionMode
from codex_bridge.services.live import LiveSession
from codex_bridge.services.recorder import Recorder
from codex_bridge.services.sessions import SessionService
from codex_bridge.store.schema import MIGRATIONS

LATITUDE = Latitude(("untrusted", "on-request"), ("read-only", "workspace-write"))
OWN = (LATITUDE.approval_policy, LATITUDE.sandbox_mode)


@dataclass(frozen=True, slots=True)
class Stored:
    """The services of one bridge, as far as they need nothing but the store."""

    database: Database
    recorder: Recorder
    sessions: SessionService

    async def create(self, count: int) -> list[LiveSession]:
        """Create sessions, the oldest first."""
        return [
            await self.sessions.create("/w", {}, SessionMode.WORKSPACE, {}, {}, *OWN) for _ in range(count)
        ]


@asynccontextmanager
async def stored(directory: Path, latitude: Latitude = LATITUDE) -> AsyncIterator[Stored]:
    """Open the store in a directory as a bridge does, and close it as one that stops."""
    database = Database(str(directory / "bridge.db"), MIGRATIONS)
    await database.open()
    recorder = Recorder(database)
    sessions = SessionService(database, recorder, latitude)
    await sessions.open()
    try:
        yield Stored(database, recorder, sessions)
        await recorder.close()
    finally:
        await database.close()
