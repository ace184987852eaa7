"""`/runtime/verify`: tries the configured provider and model; its progress streams where that is asked for."""

from __future__ import annotations

from typing import Any

from ..adapters.http_server import Request, Response, Stream, StreamResponse
from ..errors import BridgeError
from ..protocol import json_codec, sse
from ..services.verification import Verification
from . import fields, replies


class VerificationRoutes:
    def __init__(self, verification: Verification) -> None:
        self._verification = verification

    async def verify(self, request: Request) -> Response | StreamResponse:
        """Answer with the report; a client that leaves ends the verification."""
        await fields.read_object(request, frozenset())
        self._verification.check_free()
        if not replies.wants_events(request):
            report = await request.while_open(self._verification.verify(lambda progress: None))
            return replies.ok(verification=report)
        return StreamResponse(
            200,
            replies.EVENT_STREAM,
            lambda stream: stream.while_open(self._stream(stream)),
            until_close=True,
        )

    async def _stream(self, stream: Stream) -> None:
        stream.heartbeat = sse.HEARTBEAT

        def tell(name: str, value: dict[str, Any]) -> None:
            stream.send(sse.encode_last_event(name, json_codec.encode(value)))

        try:
            report = await self._verification.verify(lambda progress: tell("verify.progress", progress))
        except BridgeError as problem:
            tell("verify.failed", {"error": problem.message, "code": problem.code})
        else:
            tell("verify.completed", {"verification": report})
