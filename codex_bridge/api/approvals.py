"""`/chat/sessions/:id/approvals`: what Codex waits for, and a host's answer to it."""

from __future__ import annotations

from ..adapters.http_server import Request, Response
from ..errors import InvalidField
from ..services.approvals import Approvals
from ..services.sessions import SessionService
from . import fields, replies

_FIELDS = frozenset({"decision", "request_id", "answers"})


class ApprovalRoutes:
    def __init__(self, sessions: SessionService, approvals: Approvals) -> None:
        self._sessions = sessions
        self._approvals = approvals

    async def list(self, request: Request) -> Response:
        live = await self._sessions.get(request.path_values[0])
        await self._sessions.catch_up(live)
        return replies.ok(approvals=[approval.to_json() for approval in live.session.pending_approvals])

    async def answer(self, request: Request) -> Response:
        body = await fields.read_object(request, _FIELDS)
        request_id = body.get("request_id")
        if request_id is not None and not isinstance(request_id, str):
            raise InvalidField("request_id", "request_id: expected the id of a pending approval.")
        live = await self._sessions.get(request.path_values[0])
        approval = await self._approvals.answer(live, request_id, body.get("decision"), body.get("answers"))
        return replies.ok(approval=approval.to_json(), session=live.session.to_brief_json())
