"""Replies: the one shape of success and the one place where an error becomes an answer.

They end in a newline, for those who read them in a terminal.
"""

from __future__ import annotations

from typing import Any

from ..adapters.http_server import Request, Response
from ..errors import BridgeError
from ..protocol import json_codec
from ..protocol.http_messages import Headers

JSON_HEADERS: Headers = (
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)
EVENT_STREAM: Headers = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # nginx would gather events before it passes them on.
    ("X-Accel-Buffering", "no"),
)


def wants_events(request: Request) -> bool:
    """Say whether a client asks for progress as an event stream."""
    return "text/event-stream" in (request.header("accept") or "").lower()


def ok(status: int = 200, /, **fields: Any) -> Response:
    """Return a success with `fields` beside `"ok": true`."""
    return Response(status, json_codec.encode({"ok": True, **fields}) + b"\n", JSON_HEADERS)


def failure(problem: BridgeError, request: Request | None = None) -> Response:
    """Return the answer that tells an error to the client of `request`."""
    error: Any = problem.message
    if request is not None and request.header("x-stainless-lang") is not None:
        # OpenAI's own clients, which all send this header, show a message only where their API has it.
        error = {"message": error, "type": "codex_bridge_error", "param": None, "code": problem.code}
    body = {"ok": False, "error": error, "code": problem.code, **problem.details}
    return Response(problem.status, json_codec.encode(body) + b"\n", JSON_HEADERS + problem.headers)
