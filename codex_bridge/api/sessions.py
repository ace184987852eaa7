"""`/chat/sessions` and `/chat/sessions/:id`: create, list, read, delete; what was done in one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import log
from ..adapters.http_server import Request, Response
from ..errors import InvalidField, StoreDamaged
from ..limits import DEFAULT_PAGE, MAX_ITEM_POSITION, MAX_PAGE
from ..model import Latitude, Session, SessionMode
from ..services.backend import Backend
from ..services.idempotency import IdempotencyKeys, Remember
from ..services.runtime_config import RuntimeConfig, parse_choice
from ..services.sessions import SessionService
from ..services.turns import TurnService
from ..workspace.paths import WorkspaceRoots
from . import fields, idempotent, replies

if TYPE_CHECKING:
    from ..adapters.database import Write

_SCOPE = "sessions"
_CREATE_FIELDS = frozenset(
    {"mode", "context", "workspace_root", "runtime", "approval_policy", "sandbox_mode"}
)


class SessionRoutes:
    def __init__(
        self,
        sessions: SessionService,
        turns: TurnService,
        roots: WorkspaceRoots,
        config: RuntimeConfig,
        keys: IdempotencyKeys,
        latitude: Latitude,
    ) -> None:
        self._sessions = sessions
        self._latitude = latitude
        self._keys = keys
        self._turns = turns
        self._roots = roots
        self._config = config

    async def create(self, request: Request) -> Response:
        body = await fields.read_object(request, _CREATE_FIELDS)
        return await idempotent.answer(
            self._keys, request, _SCOPE, body, lambda remember: self._create(body, remember)
        )

    async def _create(self, body: dict[str, Any], remember: Remember) -> Response:
        mode = body.get("mode", SessionMode.WORKSPACE)
        if mode not in tuple(SessionMode):
            raise InvalidField("mode", f"mode: expected {' or '.join(SessionMode)}.")
        context = fields.context_field(body)
        root = self._roots.choose(body.get("workspace_root"))
        policy = fields.choice_field(body, "approval_policy", self._latitude.approval_policies)
        sandbox_mode = fields.choice_field(body, "sandbox_mode", self._latitude.sandbox_modes)
        choice, backend = _read_choice(self._config, fields.object_field(body, "runtime"))
        answers: list[Response] = []

        def also(session: Session) -> Iterable[Write]:
            answers.append(replies.ok(201, session=session.to_json()))
            return remember(answers[0].status, answers[0].body)

        self._turns.warm_up(sandbox_mode)
        await self._sessions.create(
            root, backend.to_json(), SessionMode(mode), context, choice, policy, sandbox_mode, also
        )
        log.hide(choice.get("api_key"))
        return answers[0]

    async def list(self, request: Request) -> Response:
        query = fields.query_fields(request, frozenset({"limit", "cursor"}))
        limit = fields.whole_number_field(query, "limit", DEFAULT_PAGE, MAX_PAGE)
        page, next_cursor = await self._sessions.list_page(limit, query.get("cursor"))
        return replies.ok(sessions=page, next_cursor=next_cursor, total=len(self._sessions))

    async def read(self, request: Request) -> Response:
        live = await self._sessions.get(request.path_values[0])
        await self._sessions.catch_up(live)
        return replies.ok(session=live.session.to_json())

    async def items(self, request: Request) -> Response:
        live = await self._sessions.get(request.path_values[0])
        query = fields.query_fields(request, frozenset({"limit", "cursor", "turn_id"}))
        limit = fields.whole_number_field(query, "limit", DEFAULT_PAGE, MAX_PAGE)
        after = fields.whole_number_field(query, "cursor", 0, MAX_ITEM_POSITION)
        rows, has_more = await self._sessions.read_items(live, limit, after, query.get("turn_id"))
        items = [{"turn_id": row.turn_id, "created_at": row.created_at, "item": row.item} for row in rows]
        next_cursor = str(rows[-1].position) if has_more else None
        return replies.ok(items=items, next_cursor=next_cursor)

    async def delete(self, request: Request) -> Response:
        session_id = request.path_values[0]
        try:
            live = await self._sessions.get(session_id)
        except StoreDamaged:
            await self._sessions.delete_row(session_id)
        else:
            await self._turns.delete_session(live)
        return replies.ok(deleted=1)

    async def clear(self, request: Request) -> Response:
        return replies.ok(deleted=await self._turns.delete_all_sessions())


def _read_choice(config: RuntimeConfig, value: dict[str, Any]) -> tuple[dict[str, Any], Backend]:
    """Return a session's own choice of backend, and what it means now; an error names the field below `runtime`."""
    try:
        choice = config.bind(parse_choice(value))
        return choice, config.backend_of(choice)
    except InvalidField as problem:
        raise InvalidField(f"runtime.{problem.details['field']}", f"runtime.{problem.message}") from None
