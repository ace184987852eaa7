"""`/chat/sessions/:id/messages` and `/interrupt`: a message starts a turn, an interrupt stops it."""

from __future__ import annotations

from typing import Any

from ..adapters.http_server import Request, Response
from ..errors import InvalidField
from ..limits import MAX_ATTACHMENTS, MAX_MESSAGE_CHARACTERS
from ..services.executor import TurnExecutor
from ..services.runtime_config import RuntimeConfig
from ..services.sessions import SessionService
from ..services.turns import TurnService
from ..workspace.paths import resolve_file
from . import fields, replies

_MESSAGE_FIELDS = frozenset({"message", "attachments", "context"})
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")


class MessageRoutes:
    """Starts turns on the session's backend, with the bridge's sandbox mode."""

    def __init__(
        self,
        sessions: SessionService,
        turns: TurnService,
        executor: TurnExecutor,
        config: RuntimeConfig,
        sandbox_mode: str,
    ) -> None:
        self._sessions = sessions
        self._turns = turns
        self._executor = executor
        self._config = config
        self._sandbox_mode = sandbox_mode

    async def send(self, request: Request) -> Response:
        live = self._sessions.get(request.path_values[0])
        body = await fields.read_object(request, _MESSAGE_FIELDS)
        text = fields.text_field(body, "message", MAX_MESSAGE_CHARACTERS)
        attachments = _read_attachments(body.get("attachments"), live.session.workspace_root)
        paths = [attachment["path"] for attachment in attachments]
        others = [path for path in paths if not path.lower().endswith(_IMAGE_ENDINGS)]
        turn_id, queued = self._turns.submit(
            live,
            text,
            backend=self._config.backend_of(live.choice),
            sandbox_mode=self._sandbox_mode,
            attachments=tuple(attachments),
            images=tuple(path for path in paths if path not in others),
            prompt=text + "\n\nAttached files:\n" + "\n".join(others) if others else None,
            context=fields.context_field(body),
        )
        load = self._executor.load()
        return replies.ok(
            202, queued=queued, bridge_load=load, turn_id=turn_id, session=live.session.to_brief_json()
        )

    async def interrupt(self, request: Request) -> Response:
        live = self._sessions.get(request.path_values[0])
        turn_id = self._turns.interrupt(live)
        return replies.ok(turn_id=turn_id, session=live.session.to_brief_json())


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
