"""`/chat/sessions/:id/stream`: the session's events, live and resumable."""

from __future__ import annotations

import asyncio

from .. import log
from ..adapters.http_server import Request, Stream, StreamResponse
from ..limits import MAX_STREAM_BUFFER_BYTES, STREAM_RETRY_MS
from ..protocol import json_codec, sse
from ..services.live import LiveSession
from ..services.sessions import SessionService
from . import fields

EVENT_STREAM_HEADERS = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # nginx would gather events before it passes them on.
    ("X-Accel-Buffering", "no"),
)


# What the client has not got by then it gets when it comes back: the event has no id.
_LAST_EVENT = sse.encode_last_event(
    "bridge.stopping", json_codec.encode({"reason": "shutting_down", "retry_after_ms": STREAM_RETRY_MS})
)


class StreamRoutes:
    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions
        self._readers: set[_Reader] = set()
        self._is_stopped = False

    async def stream(self, request: Request) -> StreamResponse:
        """Begin behind `Last-Event-ID` (or `?after=`) where that is still possible, else with `session.ready`."""
        live = await self._sessions.get(request.path_values[0])
        query = fields.query_fields(request, frozenset({"after"}))
        last_id = sse.parse_event_id(request.header("last-event-id") or query.get("after"))
        return StreamResponse(
            200, EVENT_STREAM_HEADERS, lambda stream: self._serve(stream, live, last_id), until_close=True
        )

    async def _serve(self, stream: Stream, live: LiveSession, last_id: tuple[str, int] | None) -> None:
        """Replay what was missed, as fast as the client reads, then follow."""
        stream.heartbeat = sse.HEARTBEAT
        reader = _Reader(stream, live, self._sessions)
        if self._is_stopped:
            reader.stop()
            return
        live.log.add(reader)
        self._readers.add(reader)
        try:
            await reader.begin(last_id)
            if not live.log.is_closed:
                await stream.wait_closed()
        finally:
            live.log.remove(reader)
            self._readers.discard(reader)

    def stop(self) -> None:
        """End every stream with a last event, behind all that its session has told."""
        self._is_stopped = True
        for reader in list(self._readers):
            reader.stop()


class _Reader:
    """A stream that reads a log: live, or from the log and the store while it is behind."""

    __slots__ = ("_catching_up", "_live", "_sessions", "_stream", "is_live", "reads_store", "seq")

    def __init__(self, stream: Stream, live: LiveSession, sessions: SessionService) -> None:
        self._stream = stream
        self._live = live
        self._sessions = sessions
        self._catching_up: asyncio.Task[None] | None = None
        live.log.flush()
        self.seq = live.log.told_seq
        self.is_live = False
        self.reads_store = False

    async def begin(self, last_id: tuple[str, int] | None) -> None:
        """Go on behind `last_id`, or begin with the whole session where that cannot be.

        A coroutine of its own: what is encoded here must not stay in memory as long as the stream.
        """
        start = sse.encode_retry(STREAM_RETRY_MS)
        if last_id is not None and await self._find(*last_id):
            await self._stream.write(start)
        else:
            await self._sessions.catch_up(self._live)
            await self._stream.write(start + self._ready(is_return=last_id is not None))
        await self.catch_up()

    async def _find(self, epoch: str, seq: int) -> bool:
        """Go back to behind `seq`, and say whether all that came since is there."""
        events = self._live.log
        if events.can_replay(epoch, seq):
            self.seq = seq
            return True
        if epoch != events.epoch or seq > events.told_seq:
            return False
        self.seq, self.reads_store = seq, True
        return await self._sessions.has_events(self._live, epoch, seq)

    def _ready(self, *, is_return: bool) -> bytes:
        """Return the whole session, and go on behind it; who was here before is told what a restart made of it."""
        events = self._live.log
        events.flush()
        self.seq, self.reads_store = events.told_seq, False
        session = json_codec.encode({"session": self._live.session.to_json()})
        if is_return and events.prologue and events.can_replay(events.epoch, 0):
            self.seq = 0
        return sse.encode_event(events.epoch, self.seq, "session.ready", session)

    async def catch_up(self) -> None:
        """Write what the log holds behind `seq`, as fast as the client reads; then be live."""
        while not self._stream.is_closed:
            found = await self._read()
            if found is None:
                self.cut_off()
                return
            data, self.seq = found
            if not data:
                self.is_live = True
                return
            await self._stream.write(data)

    async def _read(self) -> tuple[bytes, int] | None:
        """Return what comes behind `seq`: from memory, or from the store what is not there any more."""
        events = self._live.log
        found = events.replay(self.seq, MAX_STREAM_BUFFER_BYTES)
        self.reads_store = found is None
        if found is not None:
            return found
        stored = await self._sessions.read_events(self._live, events.epoch, self.seq, MAX_STREAM_BUFFER_BYTES)
        return (b"".join(stored[0]), stored[1]) if stored is not None and stored[0] else None

    def send(self, data: bytes, seq: int) -> None:
        if self._stream.unsent_bytes + len(data) <= MAX_STREAM_BUFFER_BYTES:
            self._stream.send(data)
            self.seq = seq
        else:
            self.is_live = False
            self._catching_up = asyncio.create_task(self._catch_up_again(), name="catch-up of a stream")

    async def _catch_up_again(self) -> None:
        try:
            await self._stream.drain()
            await self.catch_up()
        except ConnectionError:
            pass  # the client left; its stream ends where it waits for that

    def cut_off(self) -> None:
        if not self._stream.is_closed:
            log.info("closed a stream whose reader is too slow")
            self._stream.abort()

    def close(self) -> None:
        self._stream.close()

    def stop(self) -> None:
        """Say that the bridge ends. A reader that is behind gets the rest when it comes back."""
        self._live.log.flush()
        self._stream.send(_LAST_EVENT)
        self._stream.close()
