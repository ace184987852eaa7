"""`/chat/sessions/:id/messages` and `/interrupt`: a message starts a turn, an interrupt stops it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..adapters.http_server import Request, Response
from ..errors import InvalidField
from ..limits import MAX_ATTACHMENTS, MAX_MESSAGE_CHARACTERS
from ..model import Session
from ..services.executor import TurnExecutor
from ..services.idempotency import IdempotencyKeys, Remember
from ..services.live import LiveSession
from ..services.sessions import SessionService
from ..services.turn_player import Prompt
from ..services.turns import NewMessage, Taken, TurnService, WhenBusy
from ..workspace.paths import resolve_file
from . import fields, idempotent, replies

if TYPE_CHECKING:
    from ..adapters.database import Write

_MESSAGE_FIELDS = frozenset({"message", "attachments", "context", "when_busy"})
_INTERRUPT_FIELDS = frozenset({"turn_id"})
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")


class MessageRoutes:
    def __init__(
        self, sessions: SessionService, turns: TurnService, executor: TurnExecutor, keys: IdempotencyKeys
    ) -> None:
        self._sessions = sessions
        self._turns = turns
        self._executor = executor
        self._keys = keys

    async def send(self, request: Request) -> Response:
        body = await fields.read_object(request, _MESSAGE_FIELDS)
        live = await self._sessions.get(request.path_values[0])
        return await idempotent.answer(
            self._keys, request, live.session.id, body, lambda remember: self._send(live, body, remember)
        )

    async def _send(self, live: LiveSession, body: dict[str, Any], remember: Remember) -> Response:
        message = _read_message(body, live.session.workspace_root)
        answers: list[Response] = []

        def also(taken: Taken, after: Session) -> Iterable[Write]:
            load = self._executor.load()
            answers.append(
                replies.ok(202, **taken.to_json(), bridge_load=load, session=after.to_brief_json())
            )
            return remember(answers[0].status, answers[0].body)

        await self._turns.submit(live, message, also)
        return answers[0]

    async def interrupt(self, request: Request) -> Response:
        body = await fields.read_object(request, _INTERRUPT_FIELDS)
        turn_id = body.get("turn_id")
        if turn_id is not None and not isinstance(turn_id, str):
            raise InvalidField("turn_id", "turn_id: expected the id of a turn of this session.")
        live = await self._sessions.get(request.path_values[0])
        turn_id = self._turns.interrupt(live, turn_id)
        return replies.ok(turn_id=turn_id, session=live.session.to_brief_json())


def _read_message(body: dict[str, Any], workspace_root: str) -> NewMessage:
    text = fields.text_field(body, "message", MAX_MESSAGE_CHARACTERS)
    when_busy = body.get("when_busy", WhenBusy.REJECT)
    if when_busy not in tuple(WhenBusy):
        raise InvalidField("when_busy", f"when_busy: expected {', '.join(WhenBusy)}.")
    attachments = _read_attachments(body.get("attachments"), workspace_root)
    paths = [attachment["path"] for attachment in attachments]
    others = [path for path in paths if not path.lower().endswith(_IMAGE_ENDINGS)]
    prompt = text + "\n\nAttached files:\n" + "\n".join(others) if others else text
    images = tuple(path for path in paths if path not in others)
    context = fields.context_field(body)
    return NewMessage(text, Prompt(prompt, images, context), tuple(attachments), WhenBusy(when_busy))


def _read_attachments(value: Any, workspace_root: str) -> list[dict[str, Any]]:
    """Return attachments with their paths made absolute; each must be a file inside the workspace."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ATTACHMENTS:
        raise InvalidField("attachments", f"attachments: expected a list of at most {MAX_ATTACHMENTS}.")
    found = []
    for index, item in enumerate(value):
        name = f"attachments[{index}]"
        if not isinstance(item, dict) or set(item) != {"path"} or not isinstance(item["path"], str):
            raise InvalidField(name, f'{name}: expected an object {{"path": "a file inside the workspace"}}.')
        found.append({"path": resolve_file(workspace_root, item["path"], name)})
    return found
