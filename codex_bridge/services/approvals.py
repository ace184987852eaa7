"""Approvals: what Codex waits for a person to allow or to answer, of all sessions.

Each is `pending` until it is settled, once and for all: accepted, declined or cancelled by a host; expired, when
nobody answers in time, which declines it; or cancelled, when nobody needs the answer any more. No wait of one holds
up another. Whether somebody follows the session makes no difference.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..errors import Conflict, InvalidField, StoreFailed
from ..limits import MAX_ANSWER_CHARACTERS, MAX_HOLD_S, MAX_SETTLED_APPROVALS
from ..model import Approval, ApprovalStatus, new_id, now_ms
from ..runtime import ApprovalAnswer, ApprovalKind, ApprovalRequest, Decision, Question, Withdrawn
from ..store import approvals
from .live import LiveSession
from .recorder import Recorder
from .transcript import Transcript

if TYPE_CHECKING:
    from ..adapters.database import Database


class Reason(StrEnum):
    """Who or what has settled an approval, besides a runtime that withdraws it (`runtime.Withdrawn`)."""

    HOST = "host"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"
    SHUTTING_DOWN = "shutting_down"
    BRIDGE_RESTARTED = "bridge_restarted"


_WHY = {
    Reason.HOST: "it was answered before",
    Reason.EXPIRED: "nobody answered in time",
    Reason.INTERRUPTED: "its turn was interrupted",
    Reason.SHUTTING_DOWN: "the bridge was stopped",
    Reason.BRIDGE_RESTARTED: "the bridge ended while it was pending",
    Withdrawn.BY_CODEX: "Codex does not need the answer any more",
    Withdrawn.TURN_ENDED: "its turn is over",
    Withdrawn.CODEX_EXITED: "Codex ended while it was pending",
}
_STATUSES = {
    Decision.ACCEPT: ApprovalStatus.ACCEPTED,
    Decision.ACCEPT_FOR_SESSION: ApprovalStatus.ACCEPTED,
    Decision.DECLINE: ApprovalStatus.DECLINED,
    Decision.CANCEL: ApprovalStatus.CANCELLED,
}
# What hosts of the bridge's forerunner say.
_OTHER_WORDS = {"allow": Decision.ACCEPT, "deny": Decision.DECLINE}


@dataclass(eq=False, slots=True)
class _Waiting:
    """An approval that is pending: its session, who waits for it, and when it expires."""

    live: LiveSession
    approval: Approval
    answer: asyncio.Future[ApprovalAnswer]
    expiry: asyncio.TimerHandle | None = None


class Approvals:
    """Owns the approvals of all sessions."""

    def __init__(
        self, database: Database, recorder: Recorder, transcript: Transcript, timeout_s: float
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._transcript = transcript
        self._timeout_s = timeout_s
        self._waiting: dict[str, _Waiting] = {}
        # What became of the newest settled ones, by session and id.
        self._settled: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    async def ask(self, live: LiveSession, turn_id: str, request: ApprovalRequest) -> ApprovalAnswer:
        """Tell the hosts of a session what Codex wants, and wait for an answer; see `runtime.Ask`."""
        now, loop = now_ms(), asyncio.get_running_loop()
        expires_at = now + int(self._timeout_s * 1000)
        approval = Approval(new_id("a"), live.session.id, turn_id, request, now, expires_at)
        waiting = self._waiting[approval.id] = _Waiting(live, approval, loop.create_future())
        waiting.expiry = loop.call_later(self._timeout_s, self._on_expiry, waiting)
        row = approvals.ApprovalRow(
            approval.id, live.key, turn_id, approval.status, approval.to_json(), None, None, now
        )
        self._recorder.secure(live, approvals.insert(row))
        live.session.pending_approvals.append(approval)
        live.session.updated_at = now
        requested = {"type": "approval.requested", "approval": approval.to_brief_json()}
        self._transcript.note(live, turn_id, requested)
        session = live.session.to_brief_json()
        live.log.append("session.approval.required", {"session": session, "approval": approval.to_json()})
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if approval.status is ApprovalStatus.PENDING:
                self._settle(waiting, ApprovalStatus.CANCELLED, None, request.withdrawn)
            raise

    async def answer(
        self, live: LiveSession, request_id: str | None, decision: object, answers: object
    ) -> Approval:
        """Settle a pending approval as a host says; None names the only one there is.

        Raises `Conflict` when it is not pending, with what became of it, and `InvalidField` for an answer that
        does not fit; nothing is settled then.
        """
        waiting = await self._find(live, request_id)
        approval = waiting.approval
        decided = _check_decision(approval.request, decision)
        told = _check_answers(approval.request, decided, answers)
        secret = {question.id for question in approval.request.questions if question.is_secret}
        approval.answers = {name: list(texts) for name, texts in told.items() if name not in secret}
        stored = self._settle(waiting, _STATUSES[decided], decided, Reason.HOST)
        waiting.answer.set_result(ApprovalAnswer(decided, told))
        # Then it cannot be told otherwise, should the bridge be killed now.
        await asyncio.wait([stored], timeout=MAX_HOLD_S)
        return approval

    def cancel(self, live: LiveSession, turn_id: str, reason: Reason) -> None:
        """Settle what is pending in a turn that somebody stops."""
        for approval in list(live.session.pending_approvals):
            if approval.turn_id == turn_id:
                waiting = self._waiting[approval.id]
                self._settle(waiting, ApprovalStatus.CANCELLED, None, reason)
                waiting.answer.cancel()

    async def cancel_left(self, live: LiveSession, turn_id: str) -> None:
        """Settle what the bridge before this one has left pending in a turn."""
        for row in await self._database.read(approvals.select_pending(live.key)):
            if row.turn_id == turn_id:
                reason, now = Reason.BRIDGE_RESTARTED, now_ms()
                status = ApprovalStatus.CANCELLED
                self._recorder.secure(live, approvals.settle(row.id, status, None, reason, now))
                settlement = {"decision": None, "settled_reason": reason, "settled_at": now}
                responded = _responded(row.approval, status, settlement)
                self._transcript.note(live, turn_id, responded)

    def _on_expiry(self, waiting: _Waiting) -> None:
        if waiting.answer.done():
            return  # it is being withdrawn at this very moment
        decided = Decision.DECLINE
        self._settle(waiting, ApprovalStatus.EXPIRED, decided, Reason.EXPIRED)
        waiting.answer.set_result(ApprovalAnswer(decided))

    def _settle(
        self, waiting: _Waiting, status: ApprovalStatus, decision: Decision | None, reason: str
    ) -> asyncio.Task[None]:
        """Settle an approval, and tell it; return what ends when that is stored."""
        live, approval = waiting.live, waiting.approval
        assert approval.status is ApprovalStatus.PENDING
        assert waiting.expiry is not None
        waiting.expiry.cancel()
        del self._waiting[approval.id]
        live.session.pending_approvals.remove(approval)
        now = live.session.updated_at = now_ms()
        approval.status, approval.decision, approval.settled_reason = status, decision, str(reason)
        approval.settled_at = now
        self._settled[approval.session_id, approval.id] = _told_late(
            approval.id, status, approval.settlement()
        )
        while len(self._settled) > MAX_SETTLED_APPROVALS:
            self._settled.popitem(last=False)
        stored = self._recorder.secure(live, approvals.settle(approval.id, status, decision, reason, now))
        responded = _responded(approval.to_json(), status, approval.settlement())
        self._transcript.note(live, approval.turn_id, responded)
        live.emit("session.updated")
        return stored

    async def _find(self, live: LiveSession, request_id: str | None) -> _Waiting:
        pending = live.session.pending_approvals
        if request_id is None and len(pending) > 1:
            ids = [approval.id for approval in pending]
            raise InvalidField(
                "request_id",
                f"request_id: several approvals are pending; expected one of {', '.join(ids)}.",
                pending=ids,
            )
        if request_id is None and not pending:
            raise _not_pending("No approval is pending in this session.")
        name = pending[0].id if request_id is None else request_id
        waiting = self._waiting.get(name)
        if waiting is not None and waiting.live is live and not waiting.answer.done():
            return waiting
        raise await self._explain(live, name)

    async def _explain(self, live: LiveSession, request_id: str) -> Conflict:
        """Return the error that says why an approval is not pending, as far as that is known."""
        told = self._settled.get((live.session.id, request_id)) or await self._look_up(live, request_id)
        if told is None:
            return _not_pending(f"The approval {request_id[:64]!r} is not pending in this session.")
        why = _WHY.get(told["settled_reason"], told["settled_reason"])
        return _not_pending(f"The approval is {told['status']}, not pending any more: {why}.", approval=told)

    async def _look_up(self, live: LiveSession, request_id: str) -> dict[str, Any] | None:
        """Return what the store knows of a settled approval."""
        try:
            row = await self._database.read(approvals.select(live.key, request_id))
        except StoreFailed:
            return None  # its reason is lost on the host, and that it is not pending is true all the same
        if row is None or row.status == ApprovalStatus.PENDING:
            return None
        settlement = {"decision": row.decision, "settled_reason": row.reason, "settled_at": row.settled_at}
        return _told_late(row.id, row.status, settlement)


def _responded(approval: Mapping[str, Any], status: str, settlement: dict[str, Any]) -> dict[str, Any]:
    told = {name: approval[name] for name in ("request_id", "kind", "item_id")}
    return {"type": "approval.responded", **told, "status": status, **settlement}


def _told_late(request_id: str, status: str, settlement: dict[str, Any]) -> dict[str, Any]:
    """Return what one is told who comes too late."""
    told = {name: settlement[name] for name in ("decision", "settled_reason", "settled_at")}
    return {"request_id": request_id, "status": status, **told}


def _not_pending(message: str, **details: Any) -> Conflict:
    return Conflict(message, code="approval_not_pending", **details)


def _check_decision(request: ApprovalRequest, word: object) -> Decision:
    decision = _OTHER_WORDS.get(word, word) if isinstance(word, str) else ""
    if decision not in request.decisions:
        offered = [str(each) for each in request.decisions]
        raise InvalidField("decision", f"decision: expected {', '.join(offered)}.", decisions=offered)
    return Decision(decision)


def _check_answers(
    request: ApprovalRequest, decision: Decision, answers: object
) -> dict[str, tuple[str, ...]]:
    """Return the texts that answer questions, by the id of their question."""
    if request.kind is not ApprovalKind.QUESTION or decision is not Decision.ACCEPT:
        if answers:
            raise InvalidField("answers", "answers: expected only where questions are accepted.")
        return {}
    questions = {question.id: question for question in request.questions}
    if not isinstance(answers, dict) or not answers:
        raise InvalidField(
            "answers", f"answers: expected an object with a text or texts for {', '.join(questions)}."
        )
    told = {}
    for name, value in answers.items():
        if name not in questions:
            raise InvalidField(
                f"answers.{name}", f"answers: there is no such question; expected {', '.join(questions)}."
            )
        told[name] = _check_texts(questions[name], value)
    return told


def _check_texts(question: Question, value: object) -> tuple[str, ...]:
    name = f"answers.{question.id}"
    given = value if isinstance(value, list) else [value]
    texts = tuple(text for text in given if isinstance(text, str))
    if len(texts) < len(given):
        raise InvalidField(name, f"{name}: expected a text, or a list of texts.")
    if sum(len(text) + 1 for text in texts) > MAX_ANSWER_CHARACTERS:
        raise InvalidField(name, f"{name}: expected less than {MAX_ANSWER_CHARACTERS} characters.")
    labels = [option["label"] for option in question.options]
    if labels and not question.is_other and not set(texts) <= set(labels):
        raise InvalidField(name, f"{name}: expected one of {', '.join(map(repr, labels))}.")
    return texts
