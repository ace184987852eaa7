"""`/chat/sessions` and `/chat/sessions/:id`: create, list, read, delete."""

from __future__ import annotations

from typing import Any

from .. import log
from ..adapters.http_server import Request, Response
from ..errors import InvalidField
from ..limits import DEFAULT_PAGE, MAX_PAGE
from ..model import SessionMode
from ..services.backend import Backend
from ..services.runtime_config import RuntimeConfig, parse_choice
from ..services.sessions import SessionService
from ..services.turns import TurnService
from ..workspace.paths import WorkspaceRoots
from . import fields, replies

_CREATE_FIELDS = frozenset({"mode", "context", "workspace_root", "runtime"})


class SessionRoutes:
    def __init__(
        self,
        sessions: SessionService,
        turns: TurnService,
        roots: WorkspaceRoots,
        config: RuntimeConfig,
    ) -> None:
        self._sessions = sessions
        self._turns = turns
        self._roots = roots
        self._config = config

    async def create(self, request: Request) -> Response:
        body = await fields.read_object(request, _CREATE_FIELDS)
        mode = body.get("mode", SessionMode.WORKSPACE)
        if mode not in tuple(SessionMode):
            raise InvalidField("mode", f"mode: expected {' or '.join(SessionMode)}.")
        context = fields.context_field(body)
        root = self._roots.choose(body.get("workspace_root"))
        choice, backend = _read_choice(self._config, fields.object_field(body, "runtime"))
        live = self._sessions.create(root, backend.to_json(), SessionMode(mode), context, choice)
        log.hide(choice.get("api_key"))
        self._turns.warm_up()
        return replies.ok(201, session=live.session.to_json())

    async def list(self, request: Request) -> Response:
        query = fields.query_fields(request, frozenset({"limit", "cursor"}))
        limit = fields.whole_number_field(query, "limit", DEFAULT_PAGE, MAX_PAGE)
        page, next_cursor = self._sessions.list_page(limit, query.get("cursor"))
        sessions = [session.to_brief_json() for session in page]
        return replies.ok(sessions=sessions, next_cursor=next_cursor, total=len(self._sessions))

    async def read(self, request: Request) -> Response:
        live = self._sessions.get(request.path_values[0])
        return replies.ok(session=live.session.to_json())

    async def delete(self, request: Request) -> Response:
        self._turns.delete_session(self._sessions.get(request.path_values[0]))
        return replies.ok(deleted=1)

    async def clear(self, request: Request) -> Response:
        found = self._sessions.all()
        for live in found:
            self._turns.delete_session(live)
        return replies.ok(deleted=len(found))


def _read_choice(config: RuntimeConfig, value: dict[str, Any]) -> tuple[dict[str, Any], Backend]:
    """Return a session's own choice of backend, and what it means now; an error names the field below `runtime`."""
    try:
        choice = config.bind(parse_choice(value))
        return choice, config.backend_of(choice)
    except InvalidField as problem:
        raise InvalidField(f"runtime.{problem.details['field']}", f"runtime.{problem.message}") from None
