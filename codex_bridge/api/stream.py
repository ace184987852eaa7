"""`/chat/sessions/:id/stream`: the session's events, live and resumable."""

from __future__ import annotations

from ..adapters.http_server import Request, Stream, StreamResponse
from ..limits import MAX_STREAM_BUFFER_BYTES, STREAM_RETRY_MS
from ..protocol import json_codec, sse
from ..services.sessions import LiveSession, SessionService
from . import fields

_HEADERS = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # nginx would gather events before it passes them on.
    ("X-Accel-Buffering", "no"),
)


class StreamRoutes:
    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions

    async def stream(self, request: Request) -> StreamResponse:
        """Begin behind `Last-Event-ID` (or `?after=`) where that is still possible, else with `session.ready`."""
        live = self._sessions.get(request.path_values[0])
        query = fields.query_fields(request, frozenset({"after"}))
        last_id = sse.parse_event_id(request.header("last-event-id") or query.get("after"))
        return StreamResponse(200, _HEADERS, lambda stream: _serve(stream, live, last_id), until_close=True)


async def _serve(stream: Stream, live: LiveSession, last_id: tuple[str, int] | None) -> None:
    """Replay what was missed, as fast as the client reads, then follow."""
    log = live.log
    stream.heartbeat = sse.HEARTBEAT
    log.flush()
    start = sse.encode_retry(STREAM_RETRY_MS)
    if last_id is not None and log.can_replay(*last_id):
        seq = last_id[1]
    else:
        seq = log.seq
        start += _ready(live)
    await stream.write(start)
    while not stream.is_closed:
        if not log.can_replay(log.epoch, seq):
            # The log moved on while this client read: what it missed is gone, the whole session makes up for it.
            seq = log.seq
            await stream.write(_ready(live))
            continue
        data, seq = log.replay(seq, MAX_STREAM_BUFFER_BYTES // 4)
        if not data:
            break
        await stream.write(data)
    log.follow(stream.send, stream.close)
    try:
        await stream.wait_closed()
    finally:
        log.unfollow(stream.send)


def _ready(live: LiveSession) -> bytes:
    data = json_codec.encode({"session": live.session.to_json()})
    return sse.encode_event(live.log.epoch, live.log.seq, "session.ready", data)
