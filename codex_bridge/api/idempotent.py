"""`Idempotency-Key`: a request that is sent again gets the first answer again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..adapters.http_server import Request, Response
from ..errors import InvalidField
from ..limits import MAX_IDEMPOTENCY_KEY_CHARACTERS
from ..services.idempotency import IdempotencyKeys, Remember
from . import replies

_HEADER = "Idempotency-Key"
# Tells a client that what it asked for was done before.
_REPLAYED = ("Idempotency-Replayed", "true")


async def answer(
    keys: IdempotencyKeys,
    request: Request,
    scope: str,
    body: dict[str, Any],
    act: Callable[[Remember], Awaitable[Response]],
) -> Response:
    """Return the answer of `act`, or the one that its key had before; `scope` is where the key counts."""
    key = request.header(_HEADER.lower())
    if key is None:
        return await act(lambda status, body: ())
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS or not key.isprintable():
        raise InvalidField(
            _HEADER, f"{_HEADER}: expected 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} printable characters."
        )

    async def act_once(remember: Remember) -> tuple[int, bytes]:
        response = await act(remember)
        return response.status, response.body

    status, data, is_old = await keys.answer(scope, key, body, act_once)
    return Response(status, data, (*replies.JSON_HEADERS, _REPLAYED) if is_old else replies.JSON_HEADERS)
