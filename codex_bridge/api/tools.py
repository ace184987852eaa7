"""`/runtime/tools` and `/chat/sessions/:id/tools/:name`: what the tools are, and a host's way to run one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from .. import limits
from ..adapters.http_server import Request, Response, Stream, StreamResponse
from ..errors import BridgeError, NotFound
from ..protocol import json_codec, sse
from ..protocol.tools import TOOLS, check_input
from ..services.live import LiveSession
from ..services.sessions import SessionService
from ..services.tools import HostTools
from . import fields, replies

# What `/runtime/tools` tells, by the name that a result has for it where it cut something short.
_LIMITS = {
    "output_characters": limits.MAX_TOOL_OUTPUT_CHARACTERS,
    "output_bytes": limits.MAX_COMMAND_OUTPUT_BYTES,
    "files": limits.MAX_STATUS_FILES,
    "diff_characters": limits.MAX_DIFF_CHARACTERS,
    "tools_at_once": limits.MAX_HOST_TOOLS,
}


class ToolRoutes:
    """`programs` tells which programs that the tools would use were found, and where."""

    def __init__(
        self, sessions: SessionService, host_tools: HostTools, programs: Mapping[str, str | None]
    ) -> None:
        self._sessions = sessions
        self._host_tools = host_tools
        self._programs = programs

    async def list(self, request: Request) -> Response:
        """Tell the tools with the schemas of their input."""
        tools = [spec.to_json() for spec in TOOLS.values()]
        return replies.ok(tools=tools, limits=_LIMITS, programs=dict(self._programs))

    async def run(self, request: Request) -> Response | StreamResponse:
        """Run a tool. With `Accept: text/event-stream` its output is told as it comes."""
        session_id, name = request.path_values
        spec = TOOLS.get(name)
        if spec is None:
            known = ", ".join(TOOLS)
            raise NotFound(f"There is no tool {name[:80]!r}; expected: {known}.", code="unknown_tool")
        body = await fields.read_object(request, frozenset(spec.properties))
        arguments = check_input(spec, body)
        live = await self._sessions.get(session_id)
        await self._host_tools.check(live, name)
        if replies.wants_events(request):
            return StreamResponse(
                200,
                replies.EVENT_STREAM,
                lambda stream: stream.while_open(self._stream(stream, live, name, arguments)),
                until_close=True,
            )
        result = await request.while_open(self._host_tools.run(live, name, arguments))
        return replies.ok(result=result.to_json())

    async def _stream(self, stream: Stream, live: LiveSession, name: str, arguments: dict[str, Any]) -> None:
        """Tell the output of a tool, then its result, or the error that kept it from one."""
        stream.heartbeat = sse.HEARTBEAT
        output = _Output(stream)
        try:
            result = await self._host_tools.run(live, name, arguments, output.add)
            event, told = "tool.result", _json(result=result.to_json())
        except BridgeError as problem:
            event, told = "tool.error", _json(error=problem.message, code=problem.code)
        output.flush()
        await stream.write(sse.encode_last_event(event, told))


class _Output:
    """Tells what a tool writes, in one event what comes at once; a client that does not read misses some of it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._texts: list[str] = []
        self._skipped = 0
        self._flushing: asyncio.Handle | None = None

    def add(self, text: str) -> None:
        self._texts.append(text)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Tell what is not told yet."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        text = "".join(self._texts)
        self._texts.clear()
        if self._stream.unsent_bytes > limits.MAX_STREAM_BUFFER_BYTES:
            self._skipped += len(text)
        elif text:
            told = _json(text=text, skipped_characters=self._skipped)
            self._skipped = 0
            self._stream.send(sse.encode_last_event("tool.output", told))


def _json(**fields: Any) -> bytes:
    return json_codec.encode(fields)
