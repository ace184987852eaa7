"""Recovery: what a bridge does with the turns that the one before it left behind.

A turn that ran is interrupted, with what it had said and the approvals it waited for; one that waited is queued
again, in its order. After a kill the events that the store had not yet are lost, so those sessions begin a new
numbering: a client that comes back gets `session.ready`, and then what became of the session.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from .. import log
from ..errors import BridgeError, StoreDamaged, StoreFailed
from ..limits import STORE_CLOSE_S
from ..model import SessionStatus
from ..protocol import json_codec, sse
from ..runtime import Failure, TurnOutcome, TurnStatus
from ..store import events, meta, sessions, turns
from ..store.turns import TurnRow
from .approvals import Approvals
from .live import LiveSession
from .sessions import SessionService
from .transcript import Transcript, note_draft
from .turn_player import Prompt
from .turns import TurnService

if TYPE_CHECKING:
    from ..adapters.database import Database

# Set when a bridge has stopped in order: all events are stored then.
_CLEAN = "stopped_clean"
_RESTARTED = Failure("The bridge ended while the turn ran.", "bridge_restarted")


async def recover(
    database: Database,
    service: SessionService,
    turn_service: TurnService,
    transcript: Transcript,
    approvals: Approvals,
) -> None:
    """Settle what the bridge before has left, as far as it can be read; call it before requests are served."""
    is_clean = await database.read(meta.get(_CLEAN)) == "yes"
    if is_clean:
        await database.commit(meta.set(_CLEAN, "no"), sync=False)
    rows = await database.read(turns.select_unfinished())
    renewed: set[int] = set()
    for row in rows:
        session_id = await database.read(sessions.select_id(row.session_key))
        assert session_id is not None
        try:
            live = await service.get(session_id)
        except StoreDamaged:
            continue  # it is told; its turns go with it when it is deleted
        if row.damage is not None:
            database.note_damage(row.damage)
        if row.status == "running":
            with contextlib.suppress(StoreDamaged):
                await _read_drafts(database, live, row)
        if not is_clean and row.session_key not in renewed:
            live.log.renew()
            renewed.add(row.session_key)
        if row.status == "running":
            with contextlib.suppress(StoreDamaged):
                await approvals.cancel_left(live, row.id)
            _interrupt(live, row, transcript)
        else:
            _resume(database, live, row, turn_service, transcript)
        live.log.prologue = live.log.seq
    if rows:
        log.info("settled %d turns of the bridge before", len(rows))


async def mark_clean(database: Database) -> None:
    """Remember that nothing is missing; call it last. A disk that hangs is not waited for: then it counts as killed."""
    with contextlib.suppress(TimeoutError, StoreFailed):
        async with asyncio.timeout(STORE_CLOSE_S):
            await database.commit(meta.set(_CLEAN, "yes"))


async def _read_drafts(database: Database, live: LiveSession, row: TurnRow) -> None:
    """Find out what a turn had said of answers that were not complete yet."""
    request = row.request or {}
    epoch = live.log.epoch
    # A turn that has waited through a kill tells in a numbering that began only then.
    after = request.get("after", 0) if request.get("epoch") == epoch else 0
    found = await database.read(events.select_stored(live.key, epoch, after))
    for frame in found:
        name, data = sse.decode_event(frame)
        if name == "session.event":
            told = json_codec.decode(data)
            if told["turn_id"] == row.id:
                note_draft(live.session, told["event"])


def _interrupt(live: LiveSession, row: TurnRow, transcript: Transcript) -> None:
    live.session.active_turn_id, live.session.status = row.id, SessionStatus.RUNNING
    transcript.end(live, row.id, TurnOutcome(TurnStatus.INTERRUPTED, _RESTARTED))


def _resume(
    database: Database, live: LiveSession, row: TurnRow, turn_service: TurnService, transcript: Transcript
) -> None:
    session = live.session
    try:
        turn_service.resume(live, row.id, _read_prompt(row))
    except BridgeError as problem:
        if isinstance(problem, StoreDamaged):
            database.note_damage(problem)
        if session.active_turn_id is None:
            session.active_turn_id = row.id
        else:
            session.queued_turn_ids.append(row.id)  # the one before it goes on
        failure = Failure(problem.message, problem.code)
        transcript.end(live, row.id, TurnOutcome(TurnStatus.FAILED, failure))


def _read_prompt(row: TurnRow) -> Prompt:
    if row.damage is not None:
        raise row.damage
    request: dict[str, Any] = row.request or {}
    try:
        return Prompt(request["text"], tuple(request["images"]), request["context"])
    except (KeyError, TypeError):
        what = f"The turn {row.id} cannot be run. A row of the database is not as it was stored."
        raise StoreDamaged(what) from None
