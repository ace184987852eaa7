"""Asking a model through the gateway: one request, its answer streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ..adapters.http_client import ClientResponse, HttpClient, Origin
from ..errors import BridgeError, UpstreamFailed
from ..protocol import json_codec
from ..protocol.chat import ChatDelta, ChatReader, failure
from ..runtime import ModelRoute

Json = dict[str, Any]


class Model:
    """A session's model. The gateway adds the key, counts what is used, and watches for silence."""

    def __init__(self, client: HttpClient, route: ModelRoute, name: str | None) -> None:
        url = urlsplit(route.base_url)
        self._client = client
        self._origin = Origin(url.scheme, url.hostname or "", url.port or 80)
        self._target = f"{url.path}/chat/completions"
        self._token = route.token
        self._name = name

    async def ask(self, fields: Json, on_delta: Callable[[ChatDelta], None]) -> None:
        """Send one request, and tell its answer as it comes.

        Raises `UpstreamFailed`. Cancelled, it closes the connection.
        """
        asked: Json = {"stream": True, "stream_options": {"include_usage": True}, **fields}
        if self._name is not None:
            asked["model"] = self._name
        headers = (
            ("Host", self._origin.authority),
            ("Authorization", f"Bearer {self._token}"),
            ("Content-Type", "application/json"),
            ("Accept", "text/event-stream"),
        )
        body = json_codec.encode(asked)
        answer = await self._client.request(self._origin, "POST", self._target, headers, body)
        try:
            if answer.head.status != 200:
                raise await _read_refusal(answer)
            await _read_answer(answer, on_delta)
        finally:
            answer.close()


async def _read_answer(answer: ClientResponse, on_delta: Callable[[ChatDelta], None]) -> None:
    reader, has_ended = ChatReader(), False

    def take(deltas: list[ChatDelta]) -> None:
        nonlocal has_ended
        for delta in deltas:
            has_ended = has_ended or delta.finish_reason is not None
            on_delta(delta)

    try:
        async for piece in answer.iter_body():
            take(reader.feed(piece))
    except UpstreamFailed:
        if not reader.is_done:  # else all is said, and how the connection ends does not matter
            raise
    take(reader.end())
    if not (reader.is_done or has_ended):
        raise UpstreamFailed("The upstream ended its answer in the middle.", code="upstream_disconnected")


async def _read_refusal(answer: ClientResponse) -> UpstreamFailed:
    """Return what the gateway says of a failure."""
    status, body = answer.head.status, await answer.read_error_text()
    try:
        error = json_codec.decode(body)["error"]
        message, code = str(error["message"]), str(error["code"])
    except (BridgeError, KeyError, TypeError):
        return UpstreamFailed(f"The gateway answered {status}.")
    return failure(message, error, code, status)
