"""Turns: takes messages, stores them, and runs their turns through the executor and the player.

One turn of a session runs at a time; more may wait behind it. A turn is in one of these states, each stored and seen
in the session's status: queued -> running -> completed | interrupted | failed. Every way out passes `_end`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from .. import log
from ..errors import BridgeError, Conflict, NotFound
from ..limits import MAX_HOLD_S
from ..model import Message, Role, Session, SessionStatus, new_id, now_ms
from ..runtime import Runtime, TurnOutcome, TurnStatus
from ..store import messages, turns
from ..store.turns import TurnRow
from ..values import value
from .approvals import Reason
from .backend import Backend
from .executor import Job, TurnExecutor
from .gateway import Gateway
from .live import LiveSession
from .recorder import Recorder
from .sessions import SessionService
from .transcript import Transcript
from .turn_player import Prompt, Turn, TurnPlayer

if TYPE_CHECKING:
    from ..adapters.database import Write


class WhenBusy(StrEnum):
    """What becomes of a message to a session that has a turn: refused, a turn behind it, or a part of it."""

    REJECT = "reject"
    QUEUE = "queue"
    STEER = "steer"


@value
class NewMessage:
    """What a host sends: the text that is shown, and the prompt for the model."""

    text: str
    prompt: Prompt
    attachments: tuple[dict[str, Any], ...] = ()
    when_busy: WhenBusy = WhenBusy.REJECT


@value
class Taken:
    """How a message was taken: the turn that it belongs to, whether that waits, whether it joined a running one."""

    turn_id: str
    queued: bool
    steered: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"queued": self.queued, "steered": self.steered, "turn_id": self.turn_id}


# Returns what is to be stored together with a message, or not at all; it is given the session as it will be then.
Also = Callable[[Taken, Session], Iterable["Write"]]


class TurnService:
    """Owns the turns of all sessions. `backend_of` returns where a session's turns go now; it may raise."""

    def __init__(
        self,
        sessions: SessionService,
        executor: TurnExecutor,
        runtime: Runtime,
        gateway: Gateway,
        player: TurnPlayer,
        transcript: Transcript,
        recorder: Recorder,
        backend_of: Callable[[LiveSession], Backend],
    ) -> None:
        self._sessions = sessions
        self._executor = executor
        self._runtime = runtime
        self._gateway = gateway
        self._player = player
        self._transcript = transcript
        self._recorder = recorder
        self._backend_of = backend_of
        # The turns of each session that has any, the one that runs or is next at the front.
        self._turns: dict[str, list[Turn]] = {}

    async def submit(self, live: LiveSession, message: NewMessage, also: Also) -> Taken:
        """Take a message: it is on disk when this returns, and its turn runs or waits.

        Raises `Conflict` while a turn is in progress, unless the message says otherwise, `Unavailable` when the
        bridge is full, and `StoreFailed`; nothing is stored then.
        """
        session = live.session
        if live.is_deleted:  # while the message arrived
            raise _not_found(session.id)
        in_progress = self._turns.get(session.id, [])
        if in_progress and message.when_busy is WhenBusy.REJECT:
            raise Conflict(
                "The session has a turn in progress; wait for its end or interrupt it, or send when_busy.",
                code="turn_in_progress", turn_id=in_progress[0].id,
            )  # fmt: skip
        if in_progress and message.when_busy is WhenBusy.STEER:
            return await self._steer(in_progress[0], message, also)
        backend = self._backend_of(live)
        self._executor.check_capacity(session.id)
        turn = self._make_turn(new_id("t"), live, message.prompt, backend)
        added, position = _to_message(message, turn.id), live.take_position()
        self._turns.setdefault(session.id, []).append(turn)
        taken = Taken(turn.id, self._executor.submit(turn.job))
        turn.has_waited = taken.queued
        # The answer tells the session as it is to be; what is told on its stream comes when all of it is on disk.
        after = session.copy()
        after.messages.append(added)
        after.updated_at = added.created_at
        _enter(after, turn)
        writes = [
            messages.insert(live.key, position, added),
            turns.insert(_to_row(turn, taken.queued)),
            *also(taken, after),
        ]
        storing = self._store(turn, writes, added, position)
        turn.storing = asyncio.create_task(storing, name=f"storing of {turn.id}")
        await asyncio.shield(turn.storing)
        return taken

    def interrupt(self, live: LiveSession, turn_id: str | None = None) -> str:
        """Stop a turn of the session, the running or next one by default, and return its id.

        A waiting turn ends at once; a running one ends a moment later, told by its `session.interrupted`.
        Raises `Conflict` when there is none.
        """
        for turn in self._turns.get(live.session.id, ()):
            if turn.is_told and turn_id in (None, turn.id):
                self._interrupt(turn)
                return turn.id
        raise Conflict(
            "The session has no turn in progress." if turn_id is None else f"The turn {turn_id[:64]!r} is not in progress.",
            code="no_turn_in_progress",
        )  # fmt: skip

    async def delete_session(self, live: LiveSession) -> None:
        """Interrupt what runs, forget the session and its thread."""
        await self._sessions.delete(live)
        self._drop(live)

    async def delete_unused_session(self, session_id: str) -> None:
        """Delete a session that nobody uses; raise `Conflict` when somebody does by now."""
        live = await self._sessions.get(session_id)
        if live.is_in_use or session_id in self._turns:  # a turn that is being stored is not told yet
            raise Conflict("The session is in use.")
        await self.delete_session(live)

    async def delete_all_sessions(self) -> int:
        """Do so with all sessions; return how many there were."""
        count, gone = await self._sessions.delete_all()
        for live in gone:
            self._drop(live)
        return count

    def warm_up(self, sandbox_mode: str) -> None:
        """Begin what the first turn would wait for; a turn is likely to come."""
        self._runtime.warm_up()
        self._player.warm_up(sandbox_mode)

    async def drain(self) -> None:
        """Take no more turns, start none that waits, and return when none runs any more.

        A turn that waits for a person runs. How long it may take is the caller's affair.
        """
        self._executor.refuse()
        while self._executor.is_busy:
            await self._executor.wait_for_an_end()
            if self._executor.is_busy:
                log.info("draining: %s", self._executor.describe())

    async def stop(self, grace_s: float) -> None:
        """Take no more turns, interrupt those that run, and wait `grace_s` seconds for their end.

        Those that wait stay on disk, for the next start.
        """
        self._executor.refuse()
        for turn in [turn for waiting in self._turns.values() for turn in waiting]:
            if not self._executor.is_waiting(turn.job):
                self._player.interrupt(turn, Reason.SHUTTING_DOWN)
        await self._executor.join(grace_s)

    def resume(self, live: LiveSession, turn_id: str, prompt: Prompt) -> None:
        """Queue a stored turn that has not begun yet; raise what `backend_of` raises."""
        turn = self._make_turn(turn_id, live, prompt, self._backend_of(live))
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        self._queue(turn, stored)

    # One turn -------------------------------------------------------------------------------------

    def _make_turn(self, turn_id: str, live: LiveSession, prompt: Prompt, backend: Backend) -> Turn:
        job = Job(
            name=f"turn {turn_id}",
            lane=live.session.id,
            run=lambda: self._run(turn),
            on_position=lambda position: self._on_position(turn, position),
        )
        turn = Turn(turn_id, live, prompt, backend, job)
        return turn

    def _queue(self, turn: Turn, storing: asyncio.Future[None]) -> None:
        """Give the executor a turn that no host waits for; it is stored as one that waits."""
        self._turns.setdefault(turn.live.session.id, []).append(turn)
        self._executor.submit(turn.job)
        turn.has_waited, turn.storing = True, storing
        self._tell(turn)

    async def _store(self, turn: Turn, writes: list[Write], message: Message, position: int) -> None:
        """Store a new turn with its message, and tell it then; or forget it, and raise `StoreFailed`."""
        try:
            await self._recorder.commit(writes)
            if turn.live.is_deleted:
                raise _not_found(turn.live.session.id)
        except BridgeError:
            self._executor.withdraw(turn.job)  # one that has begun ends by itself
            self._forget(turn)
            if turn.live.is_deleted:
                self._let_go(turn.live)
            raise
        turn.live.show(message, position)
        self._tell(turn, "session.message")

    def _tell(self, turn: Turn, *before: str) -> None:
        """Let a stored turn be seen in its session, and tell it, behind the events `before`."""
        live, session = turn.live, turn.live.session
        turn.is_told = True
        _enter(session, turn)
        for name in before:
            live.emit(name)
        if session.active_turn_id != turn.id:
            live.emit("session.updated")
        else:
            live.emit("session.queued" if turn.position else "session.running")

    async def _steer(self, turn: Turn, message: NewMessage, also: Also) -> Taken:
        """Make a message part of the running turn."""
        live, session, prompt = turn.live, turn.live.session, message.prompt
        await self._runtime.steer(turn.id, prompt.text, prompt.images)
        turn.steers.append(prompt)
        added, position = _to_message(message, turn.id), live.take_position()
        taken = Taken(turn.id, queued=False, steered=True)
        after = session.copy()
        after.messages.append(added)
        writes = [messages.insert(live.key, position, added), *also(taken, after)]

        async def store() -> None:
            await self._recorder.commit(writes)
            # The turn may have ended meanwhile; then a kill begins no new numbering.
            self._recorder.secure(live)
            live.show(added, position)
            live.emit("session.message")

        await asyncio.shield(asyncio.create_task(store(), name="storing of a message"))
        return taken

    def _on_position(self, turn: Turn, position: int) -> None:
        live, session = turn.live, turn.live.session
        before, turn.position = turn.position, position
        if not turn.is_told or session.active_turn_id != turn.id or before == position:
            return
        _place(session, turn)
        session.updated_at = now_ms()
        live.emit("session.updated" if position else "session.running")

    async def _run(self, turn: Turn) -> None:
        assert turn.storing is not None
        await asyncio.wait([turn.storing])
        if turn.storing.exception() is not None:
            return  # whoever sent its message has been told
        outcome = TurnOutcome(TurnStatus.INTERRUPTED)
        try:
            if turn.has_waited:
                # From here on it must not be begun again by another bridge.
                begun = turns.update(turn.id, "running", started_at=now_ms())
                await asyncio.wait([self._recorder.secure(turn.live, begun)], timeout=MAX_HOLD_S)
            outcome = await self._player.play(turn)
            if outcome.unheard and outcome.status is TurnStatus.COMPLETED and not turn.live.is_deleted:
                self._follow_up(turn, turn.steers[-outcome.unheard :])
        finally:
            self._end(turn, outcome)
        if turn.interrupting is not None:
            await asyncio.wait([turn.interrupting])
        if turn.live.is_deleted:
            self._let_go(turn.live)

    def _follow_up(self, turn: Turn, late: list[Prompt]) -> None:
        """Queue a turn for texts that joined one when it was too late for an answer: they were accepted."""
        live = turn.live
        images = tuple(image for prompt in late for image in prompt.images)
        prompt = Prompt("\n\n".join(prompt.text for prompt in late), images, turn.prompt.context)
        following = self._make_turn(new_id("t"), live, prompt, turn.backend)
        self._queue(following, self._recorder.secure(live, turns.insert(_to_row(following, queued=True))))

    def _interrupt(self, turn: Turn) -> None:
        if self._executor.withdraw(turn.job):
            self._end(turn, TurnOutcome(TurnStatus.INTERRUPTED))
        else:
            self._player.interrupt(turn)

    def _end(self, turn: Turn, outcome: TurnOutcome) -> None:
        self._forget(turn)
        following = next((each for each in self._turns.get(turn.live.session.id, ()) if each.is_told), None)
        self._transcript.end(turn.live, turn.id, outcome, following.position if following else 0)

    def _forget(self, turn: Turn) -> None:
        session_id = turn.live.session.id
        self._turns[session_id].remove(turn)
        if not self._turns[session_id]:
            del self._turns[session_id]

    def _drop(self, live: LiveSession) -> None:
        """End what a deleted session still has: its turns, the newest first, so that nobody moves up; its thread."""
        for turn in reversed(self._turns.get(live.session.id, [])):
            if turn.is_told:  # else it is still being stored, and will not be
                self._interrupt(turn)
        self._gateway.close(live.session.id)
        if live.session.id not in self._turns:
            self._let_go(live)

    def _let_go(self, live: LiveSession) -> None:
        """Forget what a deleted session had besides itself, now that no turn of it runs."""
        log.forget(live.choice.get("api_key"))
        if live.session.thread_id is not None:
            self._runtime.close_thread(live.session.thread_id)


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"There is no session {session_id!r}.", code="session_not_found")


def _to_message(message: NewMessage, turn_id: str) -> Message:
    return Message(new_id("m"), Role.USER, message.text, turn_id, now_ms(), message.attachments)


def _enter(session: Session, turn: Turn) -> None:
    """Write a new turn into its session."""
    if session.active_turn_id is None:
        session.active_turn_id = turn.id
        session.last_error = session.last_error_code = None
        _place(session, turn)
    else:
        session.queued_turn_ids.append(turn.id)


def _place(session: Session, turn: Turn) -> None:
    """Write where its next turn stands into a session."""
    session.queue_position = turn.position or None
    session.status = SessionStatus.QUEUED if turn.position else SessionStatus.RUNNING
    if not turn.position:
        session.last_error = session.last_error_code = None
    session.runtime = turn.backend.to_json()


def _to_row(turn: Turn, queued: bool) -> TurnRow:
    """Return what is stored of a turn: enough to begin it, and behind which event of which numbering it tells."""
    prompt, now = turn.prompt, now_ms()
    request = {
        "text": prompt.text,
        "images": list(prompt.images),
        "context": prompt.context,
        "after": turn.live.log.seq,
        "epoch": turn.live.log.epoch,
    }
    status = "queued" if queued else "running"
    return TurnRow(turn.id, turn.live.key, status, request, now, None if queued else now, None, None)
